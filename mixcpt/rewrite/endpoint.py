"""Generate texts through a server with the chat interface of OpenAI.

A server that is busy (429), has an error (5xx) or does not answer is asked again with growing pauses. Any other refusal
stops the run at once, with the answer of the server. Texts that arrived are never lost: the caller stores each of them.
"""

import os
import random
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

import httpx

from mixcpt.config.rewrite import EndpointGenerator
from mixcpt.errors import ConfigError, StageInterrupted
from mixcpt.rewrite.memory import Generated
from mixcpt.rewrite.requests import Request

_TRY_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 60.0
_CHARACTERS_PER_TOKEN = 3
_ROOM = 64
_SHOWN = 300


class EndpointTexts:
    """A server that writes texts."""

    def __init__(self, config: EndpointGenerator, *, temperature: float, top_p: float) -> None:
        self._config, self._temperature, self._top_p = config, temperature, top_p
        self._client = httpx.Client(
            base_url=config.url.rstrip("/") + "/",
            headers=_authorization(config),
            timeout=httpx.Timeout(config.timeout_seconds, connect=min(10.0, config.timeout_seconds)),
            limits=httpx.Limits(max_connections=config.concurrency),
        )

    def answers(self, requests: Mapping[str, Request]) -> Iterator[list[Generated]]:
        """Yield the texts as they arrive.

        Raises:
            ConfigError: If the server refuses a request for good, such as an unknown model or a wrong key.
            StageInterrupted: If it does not answer a request in any of the attempts. The next attempt of the stage asks
                for the missing texts only.
        """
        waiting = iter(requests.items())
        with ThreadPoolExecutor(self._config.concurrency) as pool:
            running: set[Future[Generated]] = set()
            try:
                while True:
                    free = 2 * self._config.concurrency - len(running)
                    running |= {pool.submit(self._ask, key, request) for key, request in islice(waiting, free)}
                    if not running:
                        return
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    if failed := [future for future in done if future.exception()]:
                        done |= wait(running).done  # keep the texts that are still in flight
                    yield [future.result() for future in done if not future.exception()]
                    if failed:
                        failed[0].result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, key: str, request: Request) -> Generated:
        form = request.form
        system = [{"role": "system", "content": form.system}] if form.system else []
        body = {
            "model": self._config.model,
            "messages": [*system, {"role": "user", "content": request.prompt}],
            "temperature": 0.0 if request.statement else self._temperature,
            "top_p": self._top_p,
            "seed": int(key[:7], 16),
            "max_tokens": int(form.max_length * len(request.passage.text)) // _CHARACTERS_PER_TOKEN + _ROOM,
        }
        problem = ""
        for attempt in range(self._config.attempts):
            if attempt:
                time.sleep(_pause(attempt))
            try:
                response = self._client.post("chat/completions", json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.status_code in _TRY_AGAIN:
                problem = _describe(response)
                continue
            if response.is_error:
                raise ConfigError(
                    f"rewrite.generator: {self._config.url} refuses a request: {_describe(response)}",
                    "check the model, the key and the length of the passages; finished texts are kept",
                )
            if answer := _read(key, response):
                return answer
            problem = f"an answer without a text: {response.text[:_SHOWN]}"
        raise StageInterrupted(
            f"rewrite.generator: {self._config.url} gave no text in {self._config.attempts} attempts: {problem}",
            "check the server and run again: finished texts are kept",
        )


def _read(key: str, response: httpx.Response) -> Generated | None:
    """Return the text of an answer; None if the answer has none, because it does not have the form of the interface."""
    try:
        data: Any = response.json()
        choice = data["choices"][0]
        text = choice["message"]["content"]
        usage = data.get("usage") or {}
        if not isinstance(text, str) or not text.strip():
            return None
        return Generated(
            key=key,
            text=text.strip(),
            is_whole=choice.get("finish_reason") in ("stop", None),
            tokens_read=int(usage.get("prompt_tokens") or 0),
            tokens_written=int(usage.get("completion_tokens") or 0),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        return None


def _describe(response: httpx.Response) -> str:
    """Return status and beginning of an answer on one line."""
    return " ".join(f"status {response.status_code}: {response.text[:_SHOWN]}".split())


def _pause(attempt: int) -> float:
    """Return the seconds before an attempt: doubled every time, with a random part so that requests spread."""
    longest: float = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
    return longest * random.uniform(0.5, 1.0)


def _authorization(config: EndpointGenerator) -> dict[str, str]:
    """Return the header with the key, from the environment.

    Raises:
        ConfigError: If the variable is not set.
    """
    if not config.key_variable:
        return {}
    if not (secret := os.environ.get(config.key_variable)):
        raise ConfigError(
            f"rewrite.generator.key_variable: the environment variable {config.key_variable} is not set",
            f"export {config.key_variable} before the run, in the environment of the worker",
        )
    return {"Authorization": f"Bearer {secret}"}
