"""Counts the tokens of selection, SFT and DPO with the real chat template, on samples of the general pools."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from mixcpt.align.chat import context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.align.strategies import FORMS
from mixcpt.config import AdaptConfig, DpoConfig, SftConfig
from mixcpt.planning.samples import Sample
from mixcpt.store.models import ModelRef


@dataclass(frozen=True, kw_only=True)
class StageLoad:
    """Number of samples, tokens and steps of SFT or DPO."""

    num_samples: int
    tokens: int
    """Tokens over all epochs."""
    steps: int
    longest_tokens: int
    """Length of the longest answer of the counted samples in tokens."""


@dataclass(frozen=True, kw_only=True)
class AlignmentLoad:
    """Tokens and steps of the three stages of alignment."""

    num_candidates: int
    """Number of samples that selection scores."""
    candidate_tokens: int
    """Tokens that the model reads to score them, in all forms that the strategy compares."""
    sft: StageLoad | None
    """Load of SFT; None if it is skipped."""
    dpo: StageLoad | None
    """Load of DPO; None if it is skipped."""


@dataclass(frozen=True, kw_only=True)
class _UsableSamples:
    """Samples of a pool that can be trained on."""

    available: int = 0
    """Number of samples in the whole pool."""
    first_tokens: float = 0.0
    """Mean tokens of a sample with its first answer."""
    all_tokens: float = 0.0
    """Mean tokens of a sample with all its answers."""
    longest_tokens: int = 0
    """Length of the longest answer in tokens."""


def alignment_load(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef) -> AlignmentLoad | None:
    """Return the load of alignment; None if the settings skip it."""
    selection = config.align.selection
    if not (selection.num_instructions or selection.num_preferences):
        return None
    instructions = _usable(config, samples, base, INSTRUCTIONS) if selection.num_instructions else _UsableSamples()
    preferences = _usable(config, samples, base, PREFERENCES) if selection.num_preferences else _UsableSamples()
    drawn_instructions = min(selection.num_candidates, instructions.available)
    drawn_preferences = min(selection.num_candidates, preferences.available)
    tokens_per_form = round(drawn_instructions * instructions.first_tokens)
    tokens_per_form += round(drawn_preferences * preferences.first_tokens)
    return AlignmentLoad(
        num_candidates=drawn_instructions + drawn_preferences,
        candidate_tokens=tokens_per_form * len(FORMS[selection.strategy]),
        sft=_stage_load(config.align.sft, instructions, min(selection.num_instructions, drawn_instructions)),
        dpo=_stage_load(config.align.dpo, preferences, min(selection.num_preferences, drawn_preferences)),
    )


def _usable(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef, pool: Pool) -> _UsableSamples:
    tokenizer = load_chat_tokenizer(base, config.base.chat_template)
    max_tokens = context_tokens(base, config.align.selection.max_tokens)
    pool_samples = [sample for sample in samples if sample.pool == pool.name]
    records = list(chain.from_iterable(sample.records for sample in pool_samples))
    lengths: list[list[int]] = []
    for record in records:
        prompt, *answers = record.texts
        chats = [encode_chat(tokenizer, prompt, answer) for answer in answers]
        if not unusable(answers, chats, max_tokens):
            lengths.append([chat.num_tokens for chat in chats])
    if not lengths:
        return _UsableSamples()
    usable_fraction = len(lengths) / len(records)
    return _UsableSamples(
        available=round(usable_fraction * sum(sample.num_records for sample in pool_samples)),
        first_tokens=sum(answer_lengths[0] for answer_lengths in lengths) / len(lengths),
        all_tokens=sum(map(sum, lengths)) / len(lengths),
        longest_tokens=max(map(max, lengths)),
    )


def _stage_load(config: SftConfig | DpoConfig, usable: _UsableSamples, num_samples: int) -> StageLoad | None:
    if not num_samples:
        return None
    return StageLoad(
        num_samples=num_samples,
        tokens=round(num_samples * usable.all_tokens * config.epochs),
        steps=-(-num_samples // config.batch_size) * config.epochs,
        longest_tokens=usable.longest_tokens,
    )
