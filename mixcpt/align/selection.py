"""Select the samples that teach the chat form: draw candidates of the general pools, score them, take the best."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from mixcpt.align.chat import Encoded, context_tokens, encode_chat, encode_plain, load_chat_tokenizer
from mixcpt.align.keys import selection_key
from mixcpt.config import SelectionConfig
from mixcpt.config.align import Strategy
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import Tracker

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
_NUM_PROGRESS_REPORTS = 20
_DECIMALS = 4
"""Decimals of the losses when they are compared, so that rounding errors of a batch do not change the order."""

Losses = Float[np.ndarray, " candidates"]

FORMS: dict[Strategy, tuple[str, ...]] = {
    "random": (),
    "ppl_low": ("chat",),
    "ppl_low_plain": ("plain",),
    "gap": ("plain", "chat"),
    "known_gap": ("plain", "chat"),
}
"""Forms whose losses a strategy needs; every form costs one forward per candidate."""


@dataclass(frozen=True)
class Pool:
    """A pool of the corpus and the file of its selected samples."""

    name: str
    file: str
    answers: tuple[str, ...]
    """Columns with answers; the first one is scored."""


INSTRUCTIONS = Pool("instructions", "sft.parquet", ("response",))
PREFERENCES = Pool("preferences", "dpo.parquet", ("chosen", "rejected"))
POOLS = (INSTRUCTIONS, PREFERENCES)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Usable samples of one pool in a random order."""

    pool: Pool
    available: int
    frame: pd.DataFrame
    """Table of one row per candidate, with the columns of the corpus."""
    encoded: dict[str, list[Encoded]]
    """Scored answer of every candidate in the forms `plain` and `chat`."""
    skipped: dict[str, int]
    """Number of drawn samples that are unusable, by reason."""


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order of selection."""

    order: Int[np.ndarray, " candidates"]
    scores: Losses
    """Value that the strategy sorts by, per candidate (not sorted); NaN for `random`."""
    num_preferred: int
    """Number of first candidates that meet the condition of the strategy; the rest is used only if too few do."""


def rank(strategy: Strategy, plain_loss: Losses, chat_loss: Losses) -> Ranking:
    """Return the order of selection. Candidates with equal scores keep their order, which is random.

    The losses are the means per answer token as plain text and with the chat template, in nats. A loss is ignored if
    `FORMS` of the strategy lacks its form.
    """
    plain, chat = np.round(plain_loss, _DECIMALS), np.round(chat_loss, _DECIMALS)
    if strategy == "random":
        return Ranking(np.arange(len(plain)), np.full(len(plain), np.nan), len(plain))
    if strategy == "known_gap":
        return _known_gap(plain, chat)
    if strategy == "gap":
        gap = np.round(chat - plain, _DECIMALS)
        return Ranking(np.argsort(-gap, kind="stable"), gap, len(gap))
    loss = chat if strategy == "ppl_low" else plain
    return Ranking(np.argsort(loss, kind="stable"), loss, len(loss))


def _known_gap(plain: Losses, chat: Losses) -> Ranking:
    """Return the known half (plain loss at most the median) by decreasing gap, then the rest by increasing plain loss.

    The gap is the increase of the loss by the chat form. A known answer with a large gap lacks only the form.
    """
    gap = np.round(chat - plain, _DECIMALS)
    known = plain <= np.median(plain) if len(plain) else np.zeros(0, dtype=bool)
    order = np.lexsort((np.where(known, -gap, plain), ~known))
    return Ranking(order, gap, int(known.sum()))


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
    """Select the samples for SFT (sft.parquet) and DPO (dpo.parquet), and return the reference of the selection.

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


def _num_wanted(pool: Pool, config: SelectionConfig) -> int:
    return config.num_instructions if pool is INSTRUCTIONS else config.num_preferences


def _draw(
    pool: Pool,
    config: SelectionConfig,
    corpus: ArtifactRef,
    tokenizer: PreTrainedTokenizerBase,
    model: ModelRef,
    seed: int,
) -> Candidates:
    """Draw up to `num_candidates` usable samples of a pool in random order, and count the unusable ones by reason."""
    import pandas as pd

    frame = pd.read_parquet(corpus.file(f"{pool.name}.parquet"))
    rows: list[int] = []
    encoded: dict[str, list[Encoded]] = {"plain": [], "chat": []}
    skipped: Counter[str] = Counter()
    max_tokens = context_tokens(model, config.max_tokens)
    limit = config.num_candidates if _num_wanted(pool, config) else 0
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
    return Candidates(
        pool=pool,
        available=len(frame),
        frame=frame.iloc[rows].reset_index(drop=True),
        encoded=encoded,
        skipped=dict(skipped),
    )


def unusable(answers: Sequence[str], chats: Sequence[Encoded], max_tokens: int) -> str:
    """Return the reason why a sample is unusable for training, or an empty text; `chats` are its answers as chats."""
    if not all(text.strip() and chat.response_ids for text, chat in zip(answers, chats, strict=True)):
        return "empty_answer"
    if any(chat.has_control for chat in chats):
        return "control_token"
    if any(chat.num_tokens > max_tokens for chat in chats):
        return "too_long"
    if len({text.strip() for text in answers}) < len(answers):
        return "equal_answers"
    return ""


def _score(drawn: Sequence[Candidates], config: SelectionConfig, model: ModelRef, tracker: Tracker) -> list[Candidates]:
    """Return the candidates with columns `plain_loss` and `chat_loss`; NaN if the strategy does not need the form."""
    forms = FORMS[config.strategy]
    total = sum(len(candidates.frame) * len(forms) for candidates in drawn)
    if not total:
        return [_with_losses(candidates, {}) for candidates in drawn]

    import torch

    from mixcpt.align.scoring import response_losses

    device = "cuda" if torch.cuda.is_available() else "cpu"
    narrow = config.precision == "bf16" and device == "cuda"
    loaded = load_model(model, dtype="bfloat16" if narrow else "float32").to(device)  # type: ignore[arg-type]
    report_interval = -(-total // _NUM_PROGRESS_REPORTS)
    done = 0

    def advance(num_samples: int) -> None:
        nonlocal done
        before, done = done, done + num_samples
        if done == total or done // report_interval > before // report_interval:
            tracker.log(done, {"select/scored": float(done)}, total_steps=total)

    scored = []
    for candidates in drawn:
        losses = {form: response_losses(loaded, candidates.encoded[form], advance) for form in forms}
        scored.append(_with_losses(candidates, losses))
    return scored


def _with_losses(candidates: Candidates, losses: Mapping[str, Any]) -> Candidates:
    missing = np.full(len(candidates.frame), np.nan)
    columns = {f"{form}_loss": losses.get(form, missing) for form in ("plain", "chat")}
    return replace(candidates, frame=candidates.frame.assign(**columns))


def _take(candidates: Candidates, config: SelectionConfig, folder: Path) -> dict[str, Any]:
    """Write the selected samples of one pool, the best first, and return its report."""
    num_wanted = _num_wanted(candidates.pool, config)
    frame = candidates.frame
    ranking = rank(config.strategy, frame["plain_loss"].to_numpy(), frame["chat_loss"].to_numpy())
    frame = frame.assign(score=ranking.scores)
    chosen = frame.iloc[ranking.order[:num_wanted]]
    scored = chain.from_iterable(candidates.encoded[form] for form in FORMS[config.strategy])
    columns = ["id", "source", "prompt", *candidates.pool.answers, "score", "plain_loss", "chat_loss"]
    chosen[columns].to_parquet(folder / candidates.pool.file, index=False)
    return {
        "available": candidates.available,
        "skipped": candidates.skipped,
        "candidates": len(frame),
        "asked": num_wanted,
        "selected": len(chosen),
        "missing": num_wanted - len(chosen),
        "filled_up": max(0, len(chosen) - ranking.num_preferred),
        "tokens": sum(encoded.num_tokens for encoded in scored),
        "quantiles": {"of": list(_QUANTILES), "candidates": _quantiles(frame), "selected": _quantiles(chosen)},
    }


def _quantiles(frame: pd.DataFrame) -> dict[str, list[float]]:
    """Return the quantiles of every measured column."""
    measured = frame[["score", "plain_loss", "chat_loss"]].dropna(axis="columns", how="all")
    return {
        str(name): [round(float(value), 4) for value in measured[name].quantile(list(_QUANTILES))] for name in measured
    }
