"""Which few samples of the general pools teach the chat form: draw candidates, score them, take the first."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mixcpt.align.chat import (
    Encoded,
    context_tokens,
    encode_chat,
    encode_plain,
    load_chat_tokenizer,
)
from mixcpt.align.stage import selection_key
from mixcpt.align.strategies import FORMS, rank
from mixcpt.config import SelectionConfig
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_NUM_PROGRESS_REPORTS = 20


@dataclass(frozen=True)
class Pool:
    """A pool of the corpus and the file that its selected samples go to."""

    name: str
    file: str
    answers: tuple[str, ...]
    """Columns with answers; the first is the one that is scored."""


INSTRUCTIONS = Pool("instructions", "sft.parquet", ("response",))
PREFERENCES = Pool("preferences", "dpo.parquet", ("chosen", "rejected"))
POOLS = (INSTRUCTIONS, PREFERENCES)


@dataclass(frozen=True)
class Candidates:
    """Usable samples of one pool in a random order."""

    pool: Pool
    available: int
    frame: pd.DataFrame
    """One row per candidate, with the columns of the corpus."""
    encoded: dict[str, list[Encoded]]
    """The scored answer in the form `plain` and `chat`."""
    skipped: dict[str, int]
    """Samples that were drawn and could not be used, by reason."""


def select(
    config: SelectionConfig,
    corpus: ArtifactRef,
    model: ModelRef,
    chat_template: str,
    *,
    seed: int,
    store: ArtifactStore,
    tracker: Tracker,
) -> ArtifactRef:
    """Returns the artifact with the samples for SFT (sft.parquet) and DPO (dpo.parquet), and how they were found.

    Raises:
        ModelError: If the model has no usable chat template.
    """
    key = selection_key(config, corpus, model, chat_template, seed=seed)

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = load_chat_tokenizer(model, chat_template)
        started = time.monotonic()
        drawn = [_draw(pool, config, corpus, tokenizer, model, seed) for pool in POOLS]
        scored = _score(drawn, config, model, tracker)
        report = {
            "strategy": config.strategy,
            "pools": {candidates.pool.name: _take(candidates, config, folder) for candidates in scored},
        }
        (folder / "report.json").write_text(json.dumps(report, indent=2))
        return {**report, "seconds": round(time.monotonic() - started, 3)}

    return store.produce(key, build, lineage={"corpus": corpus.path, "model": model.to_json()})


def _wanted(pool: Pool, config: SelectionConfig) -> int:
    return config.num_instructions if pool is INSTRUCTIONS else config.num_preferences


def _draw(
    pool: Pool,
    config: SelectionConfig,
    corpus: ArtifactRef,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelRef,
    seed: int,
) -> Candidates:
    """Returns up to `num_candidates` usable samples of a pool in a random order, and why others were skipped."""
    import pandas as pd

    frame = pd.read_parquet(corpus.file(f"{pool.name}.parquet"))
    rows: list[int] = []
    encoded: dict[str, list[Encoded]] = {"plain": [], "chat": []}
    skipped: Counter[str] = Counter()
    max_tokens = context_tokens(model, config.max_tokens)
    limit = config.num_candidates if _wanted(pool, config) else 0
    for row in np.random.default_rng([seed, POOLS.index(pool)]).permutation(len(frame)):
        if len(rows) == limit:
            break
        prompt, *answers = frame.iloc[row][["prompt", *pool.answers]]
        chats = [encode_chat(tokenizer, prompt, text) for text in answers]
        if problem := unusable(answers, chats, max_tokens):
            skipped[problem] += 1
            continue
        rows.append(int(row))
        encoded["chat"].append(chats[0])
        encoded["plain"].append(encode_plain(tokenizer, prompt, answers[0]))
    return Candidates(pool, len(frame), frame.iloc[rows].reset_index(drop=True), encoded, dict(skipped))


def unusable(answers: Sequence[str], chats: Sequence[Encoded], max_tokens: int) -> str:
    """Returns why a sample cannot be trained on, or nothing where it can; `chats` are its answers in the chat form."""
    if not all(text.strip() and chat.response_ids for text, chat in zip(answers, chats, strict=True)):
        return "empty_answer"
    if any(chat.num_tokens > max_tokens for chat in chats):
        return "too_long"
    if len({text.strip() for text in answers}) < len(answers):
        return "equal_answers"
    return ""


def _score(drawn: Sequence[Candidates], config: SelectionConfig, model: ModelRef, tracker: Tracker) -> list[Candidates]:
    """Returns the candidates with the columns `plain_loss` and `chat_loss`; NaN in a form that the strategy ignores."""
    forms = FORMS[config.strategy]
    total = sum(len(candidates.frame) * len(forms) for candidates in drawn)
    if not total:
        return [_with_losses(candidates, {}) for candidates in drawn]

    import torch

    from mixcpt.align.scoring import response_losses

    loaded = load_model(model).to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    progress = _Progress(tracker, total)
    return [
        _with_losses(
            candidates, {form: response_losses(loaded, candidates.encoded[form], progress.advance) for form in forms}
        )
        for candidates in drawn
    ]


class _Progress:
    """Tells the tracker now and then how many forwards are done."""

    def __init__(self, tracker: Tracker, total: int) -> None:
        self.tracker = tracker
        self.total = total
        self.done = 0

    def advance(self, num_samples: int) -> None:
        before, self.done = self.done, self.done + num_samples
        step = -(-self.total // _NUM_PROGRESS_REPORTS)
        if self.done == self.total or self.done // step > before // step:
            self.tracker.log(self.done, {"select/scored": float(self.done)}, total_steps=self.total)


def _with_losses(candidates: Candidates, losses: Mapping[str, Any]) -> Candidates:
    nothing = np.full(len(candidates.frame), np.nan)
    columns = {f"{form}_loss": losses.get(form, nothing) for form in ("plain", "chat")}
    return replace(candidates, frame=candidates.frame.assign(**columns))


def _take(candidates: Candidates, config: SelectionConfig, folder: Path) -> dict[str, Any]:
    """Returns the report of one pool, and writes its selected samples, the best first."""
    wanted = _wanted(candidates.pool, config)
    frame = candidates.frame
    ranking = rank(config.strategy, frame["plain_loss"].to_numpy(), frame["chat_loss"].to_numpy())
    frame = frame.assign(score=ranking.scores)
    chosen = frame.iloc[ranking.order[:wanted]]
    columns = ["id", "source", "prompt", *candidates.pool.answers, "score", "plain_loss", "chat_loss"]
    chosen[columns].to_parquet(folder / candidates.pool.file, index=False)
    return {
        "available": candidates.available,
        "skipped": candidates.skipped,
        "candidates": len(frame),
        "asked": wanted,
        "selected": len(chosen),
        "missing": wanted - len(chosen),
        "filled_up": max(0, len(chosen) - ranking.num_preferred),
        "tokens": sum(encoded.num_tokens for form in FORMS[config.strategy] for encoded in candidates.encoded[form]),
        "quantiles": {"of": list(_QUANTILES), "candidates": _quantiles(frame), "selected": _quantiles(chosen)},
    }


def _quantiles(frame: pd.DataFrame) -> dict[str, list[float]]:
    """Returns the quantiles of each column that was measured."""
    measured = frame[["score", "plain_loss", "chat_loss"]].dropna(axis="columns", how="all")
    return {
        str(name): [round(float(value), 4) for value in measured[name].quantile(list(_QUANTILES))] for name in measured
    }
