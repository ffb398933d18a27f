"""What selection, SFT and DPO will read, by the real chat form on a sample of the general pools."""

from collections.abc import Sequence
from dataclasses import dataclass

from mixcpt.align.chat import context_tokens, encode_chat, load_chat_tokenizer
from mixcpt.align.selection import INSTRUCTIONS, PREFERENCES, Pool, unusable
from mixcpt.align.strategies import FORMS
from mixcpt.config import AdaptConfig, DpoConfig, SftConfig
from mixcpt.planning.samples import Sample
from mixcpt.store.models import ModelRef


@dataclass(frozen=True)
class StageLoad:
    """What SFT or DPO reads."""

    num_samples: int
    tokens: int
    """Over all epochs."""
    steps: int
    longest_tokens: int
    """Of the longest answer in the sample."""


@dataclass(frozen=True)
class AlignmentLoad:
    """What the three stages read; None where one is skipped."""

    num_candidates: int
    candidate_tokens: int
    """That the model reads to score them, in every form that the strategy compares."""
    sft: StageLoad | None
    dpo: StageLoad | None


def alignment_load(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef) -> AlignmentLoad | None:
    """Returns what alignment reads; None where the settings skip all of it."""
    selection = config.align.selection
    if not (selection.num_instructions or selection.num_preferences):
        return None
    instructions = _usable(config, samples, base, INSTRUCTIONS) if selection.num_instructions else _NOTHING
    preferences = _usable(config, samples, base, PREFERENCES) if selection.num_preferences else _NOTHING
    drawn = [(of, min(selection.num_candidates, of.available)) for of in (instructions, preferences)]
    scored = sum(round(count * of.first_tokens) for of, count in drawn) * len(FORMS[selection.strategy])
    return AlignmentLoad(
        sum(count for _, count in drawn),
        scored,
        _stage(config.align.sft, instructions, min(selection.num_instructions, drawn[0][1])),
        _stage(config.align.dpo, preferences, min(selection.num_preferences, drawn[1][1])),
    )


@dataclass(frozen=True)
class _Usable:
    """The samples of a pool that can be trained on."""

    available: int
    first_tokens: float
    """Mean tokens of a sample with its first answer."""
    all_tokens: float
    """Mean tokens with every answer."""
    longest_tokens: int


_NOTHING = _Usable(0, 0.0, 0.0, 0)


def _usable(config: AdaptConfig, samples: Sequence[Sample], base: ModelRef, pool: Pool) -> _Usable:
    tokenizer = load_chat_tokenizer(base, config.base.chat_template)
    max_tokens = context_tokens(base, config.align.selection.max_tokens)
    of_pool = [sample for sample in samples if sample.pool == pool.name]
    lengths: list[list[int]] = []
    for record in (record for sample in of_pool for record in sample.records):
        prompt, *answers = record.texts
        chats = [encode_chat(tokenizer, prompt, answer) for answer in answers]
        if not unusable(answers, chats, max_tokens):
            lengths.append([chat.num_tokens for chat in chats])
    if not lengths:
        return _NOTHING
    share = len(lengths) / sum(len(sample.records) for sample in of_pool)
    return _Usable(
        round(share * sum(sample.num_records for sample in of_pool)),
        sum(each[0] for each in lengths) / len(lengths),
        sum(map(sum, lengths)) / len(lengths),
        max(map(max, lengths)),
    )


def _stage(config: SftConfig | DpoConfig, usable: _Usable, count: int) -> StageLoad | None:
    if not count:
        return None
    steps = -(-count // config.batch_size) * config.epochs
    return StageLoad(count, round(count * usable.all_tokens * config.epochs), steps, usable.longest_tokens)
