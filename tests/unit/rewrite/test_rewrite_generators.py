"""Generators of texts: a local model, a server, and files."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from mixcpt.config.rewrite import EndpointGenerator, FilesGenerator, RewriteConfig
from mixcpt.errors import ConfigError, DataError, StageInterrupted
from mixcpt.rewrite import endpoint
from mixcpt.rewrite.endpoint import EndpointTexts
from mixcpt.rewrite.forms import Form
from mixcpt.rewrite.generators import generator_identity
from mixcpt.rewrite.local import LocalTexts, SeededSampling
from mixcpt.rewrite.made_elsewhere import read_answers
from mixcpt.rewrite.passages import Document, Passage
from mixcpt.rewrite.requests import Request
from mixcpt.store.models import ModelRef

FORM = Form(name="f", purpose="a test", prompt="{passage}\nAgain.")
Reply = tuple[int, str]


def requests(*texts: str) -> dict[str, Request]:
    documents = [Document(id=str(index), source="docs", title="", text=text) for index, text in enumerate(texts)]
    made = [Request(passage=Passage(document=item, number=0, text=item.text), form=FORM) for item in documents]
    return {request.key("g", 0): request for request in made}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[EndpointGenerator, list[Any]]]]:
    """Start a server that gives the given replies in turn, the last one for ever; return its settings and requests."""
    monkeypatch.setattr(endpoint, "_FIRST_PAUSE_SECONDS", 0.001)
    servers: list[ThreadingHTTPServer] = []

    def start(*replies: Reply, **settings: Any) -> tuple[EndpointGenerator, list[Any]]:
        seen: list[Any] = []
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    seen.append((body, dict(self.headers)))
                    status, text = replies[min(len(seen), len(replies)) - 1]
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{servers[-1].server_port}/v1"
        return EndpointGenerator(url=url, model="m", attempts=3, concurrency=2, **settings), seen

    yield start
    for running in servers:
        running.shutdown()


def whole(text: str, reason: str = "stop") -> Reply:
    choice = {"message": {"content": text}, "finish_reason": reason}
    return 200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})


def ask(config: EndpointGenerator, *texts: str) -> dict[str, Any]:
    generator = EndpointTexts(config, temperature=0.5, top_p=0.9)
    return {answer.key: answer for batch in generator.answers(requests(*texts)) for answer in batch}


def test_endpoint_returns_text_tokens_and_end(server: Callable[..., Any]) -> None:
    config, seen = server(whole(" A text. "))
    (answer,) = ask(config, "One.").values()
    assert (answer.text, answer.is_whole, answer.tokens_read, answer.tokens_written) == ("A text.", True, 7, 3)
    body, _ = seen[0]
    assert body["messages"] == [{"role": "user", "content": "One.\nAgain."}]
    assert (body["temperature"], body["top_p"]) == (0.5, 0.9)


def test_endpoint_answers_every_request_once(server: Callable[..., Any]) -> None:
    config, seen = server(whole("A text."))
    assert len(ask(config, *(f"Number {index}." for index in range(20)))) == len(seen) == 20


def test_cut_answer_is_not_whole(server: Callable[..., Any]) -> None:
    config, _ = server(whole("A te", "length"))
    (answer,) = ask(config, "One.").values()
    assert not answer.is_whole


@pytest.mark.parametrize(
    "bad",
    [(429, "slow down"), (500, "oops"), (503, ""), (200, "no json"), (200, "{}"), (200, '{"choices": []}'), whole("")],
)
def test_busy_or_broken_server_is_asked_again(server: Callable[..., Any], bad: Reply) -> None:
    config, seen = server(bad, whole("A text."))
    (answer,) = ask(config, "One.").values()
    assert answer.text == "A text."
    assert len(seen) == 2


@pytest.mark.parametrize("bad", [(500, "oops"), (200, "garbage")])
def test_server_that_never_answers_ends_the_attempt_with_its_words(server: Callable[..., Any], bad: Reply) -> None:
    config, seen = server(bad)
    with pytest.raises(StageInterrupted, match=bad[1]):
        ask(config, "One.")
    assert len(seen) == 3


def test_final_refusal_is_not_repeated(server: Callable[..., Any]) -> None:
    config, seen = server((404, "no model m"))
    with pytest.raises(ConfigError, match="no model m"):
        ask(config, "One.")
    assert len(seen) == 1


def test_texts_that_arrived_beside_a_refusal_are_kept(server: Callable[..., Any]) -> None:
    config, _ = server(whole("A text."), whole("A text."), whole("A text."), (404, "no model m"))
    generator = EndpointTexts(config, temperature=0.5, top_p=0.9)
    kept: list[Any] = []
    with pytest.raises(ConfigError, match="no model m"):
        for batch in generator.answers(requests(*(f"Number {index}." for index in range(8)))):
            kept += batch
    assert [answer.text for answer in kept] == ["A text."] * 3


def test_identity_of_texts_that_are_gone_is_an_error_with_their_file(tiny_model: ModelRef) -> None:
    config = RewriteConfig(generator=FilesGenerator(paths=("/nowhere/texts.jsonl",)))
    with pytest.raises(DataError, match="/nowhere/texts"):
        generator_identity(config, tiny_model)


def test_server_that_is_not_there_ends_the_attempt() -> None:
    config = EndpointGenerator(url="http://127.0.0.1:9", model="m", attempts=1)
    with pytest.raises(StageInterrupted, match=r"127\.0\.0\.1:9"):
        ask(config, "One.")


def test_key_comes_from_the_environment(server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config, seen = server(whole("A text."), key_variable="A_KEY")
    monkeypatch.delenv("A_KEY", raising=False)
    with pytest.raises(ConfigError, match="A_KEY"):
        ask(config, "One.")
    monkeypatch.setenv("A_KEY", "secret")
    ask(config, "One.")
    assert seen[0][1]["Authorization"] == "Bearer secret"
    assert "secret" not in config.model_dump_json()


def test_texts_of_a_model_do_not_depend_on_their_batch(tiny_model: ModelRef) -> None:
    asked = requests("the red fox", "the blue owl and the red fox", "a fox")

    def texts(batch_texts: int) -> dict[str, str]:
        generator = LocalTexts(tiny_model, temperature=1.0, top_p=1.0, batch_texts=batch_texts)
        return {answer.key: answer.text for batch in generator.answers(asked) for answer in batch}

    assert texts(1) == texts(3) == texts(2)


def test_sampling_follows_the_distribution() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(4000, 1)
    seeds = [f"{index:015x}" for index in range(4000)]
    drawn = SeededSampling(seeds, 1.0, 1.0)(torch.zeros(4000, 1, dtype=torch.long), logits).argmax(dim=1)
    shares = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.03, rtol=0)


def test_nucleus_leaves_out_unlikely_tokens() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2]])).repeat(500, 1)
    seeds = [f"{index:015x}" for index in range(500)]
    drawn = SeededSampling(seeds, 1.0, 0.7)(torch.zeros(500, 1, dtype=torch.long), logits).argmax(dim=1)
    assert set(drawn.tolist()) == {0, 1}


def test_passage_that_does_not_fit_is_refused_with_document_and_form(tiny_model: ModelRef) -> None:
    generator = LocalTexts(tiny_model, temperature=0.0, top_p=1.0, batch_texts=1)
    with pytest.raises(DataError, match="passage_characters") as caught:
        list(generator.answers(requests("fox " * 5000)))
    assert "0 (docs)" in str(caught.value)


def test_identity_of_a_server_is_its_model_and_not_its_address(tiny_model: ModelRef) -> None:
    first = RewriteConfig(generator=EndpointGenerator(url="http://a", model="m"))
    moved = RewriteConfig(generator=EndpointGenerator(url="http://b", model="m", concurrency=2))
    other = RewriteConfig(generator=EndpointGenerator(url="http://a", model="n"))
    identities = [generator_identity(config, tiny_model) for config in (first, moved, other)]
    assert identities[0] == identities[1] != identities[2]


DOCUMENTS = [Document(id="a", source="docs", title="", text="The red fox.")]


def test_texts_made_elsewhere_are_matched_by_document_and_form(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"document": "a", "form": "f", "text": text}) + "\n" for text in ("One", "Two")))
    answers = read_answers(FilesGenerator(paths=(str(path),)), DOCUMENTS, [FORM])
    assert [(request.repetition, answer.text) for request, answer in answers] == [(0, "One"), (1, "Two")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"document": "b", "form": "f", "text": "x"}', "no document 'b'"),
        ('{"document": "a", "form": "g", "text": "x"}', "no form 'g'"),
        ('{"document": "a", "form": "f"}', "text must be text"),
        ('{"document": "a", "form": "f", "text": 3}', "text must be text"),
        ("[1]", "document and form and text"),
        ("{", "no JSON"),
    ],
)
def test_line_that_cannot_be_used_is_refused_with_its_place(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text(f"{json.dumps({'document': 'a', 'form': 'f', 'text': 'x'})}\n{line}\n")
    with pytest.raises(DataError, match="line 2") as caught:
        read_answers(FilesGenerator(paths=(str(path),)), DOCUMENTS, [FORM])
    assert problem in str(caught.value)
