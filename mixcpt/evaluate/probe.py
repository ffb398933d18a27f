"""The probe: questions that steer a training, with what the base answers to them; no report ever asks them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mixcpt.config import EvaluateConfig, RetentionConfig
from mixcpt.errors import ConfigError
from mixcpt.evaluate.asking.definitions import gold_delimiter, plain_prompt
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.models import ModelRef, load_model, load_tokenizer
from mixcpt.train.tally import Tally, questions_needed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_VERSION = 1
_FILE = "questions.json"
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Question:
    """One question in the plain form, in which a model is asked between its stages."""

    task: str
    prompt: str
    answers: tuple[str, ...]
    """The right one first, with the white space before them; the others where there are choices."""
    known: bool
    """Whether the base answers it rightly."""


def draw_probe(
    config: EvaluateConfig,
    promise: RetentionConfig,
    tasks: Sequence[str],
    base: ModelRef,
    corpus: ArtifactRef,
    *,
    seed: int,
    store: ArtifactStore,
) -> ArtifactRef:
    """Returns the probe questions of some tasks, with whether the base answers them.

    Args:
        config: The tasks, and how their questions are split.
        promise: What they have to be able to show.
        tasks: Names of the tasks.
        base: Who is asked.
        corpus: The tasks' documents, where they have any.
        seed: Draws the questions of tasks with a limit.
        store: Where the probe is kept.

    Raises:
        ConfigError: If there are too few questions to show that the promise is kept, even with none of them lost.
    """
    chosen = tuple(task for task in config.tasks if task.name in tasks)
    probing = EvaluateConfig(
        tasks=chosen,
        headline_domain=chosen[0].name,
        headline_general=chosen[0].name,
        split="probe",
        splits=config.splits,
    )
    asked = read_tasks(probing, corpus, seed=seed)
    _check_size(asked, promise)
    inputs = {"base": base.digest} | {f"items/{each.task.name}": each.digest for each in asked}

    def build(folder: Path) -> Metrics:
        questions = [question for each in asked for question in _questions(each)]
        known = _answered(load_model(base), load_tokenizer(base), questions)
        rows = [asdict(question) | {"known": is_known} for question, is_known in zip(questions, known, strict=True)]
        (folder / _FILE).write_text(json.dumps(rows, indent=1, ensure_ascii=False))
        return {"questions": len(rows), "known": sum(known)}

    settings = {"tasks": [each.task.model_dump(mode="json") for each in asked]}
    return store.produce(StageKey("probe", _VERSION, settings, inputs), build, lineage={"base": base.to_json()})


class StoredProbe:
    """A probe as a training asks it (`mixcpt.train.retention.Probe`)."""

    def __init__(self, ref: ArtifactRef, base: ModelRef) -> None:
        self.digest = ref.digest
        self._path = ref.file(_FILE)
        self._base = base

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self._base)

    @cached_property
    def _asked(self) -> list[Question]:
        rows: list[dict[str, Any]] = json.loads(self._path.read_text())
        return [Question(row["task"], row["prompt"], tuple(row["answers"]), row["known"]) for row in rows]

    def ask(self, model: "nn.Module") -> Mapping[str, Tally]:
        """Returns how each task has changed since the base was asked."""
        answered = _answered(cast("PreTrainedModel", model), self._tokenizer, self._asked)
        pairs: dict[str, list[tuple[bool, bool]]] = {}
        for question, is_right in zip(self._asked, answered, strict=True):
            pairs.setdefault(question.task, []).append((question.known, is_right))
        return {
            task: Tally(
                len(found),
                lost=sum(before and not after for before, after in found),
                gained=sum(after and not before for before, after in found),
            )
            for task, found in pairs.items()
        }


def _check_size(asked: Sequence[TaskItems], promise: RetentionConfig) -> None:
    needed = questions_needed(promise.max_loss, promise.sure)
    for each in asked:
        if len(each.items) < needed:
            raise ConfigError(
                f"pretrain.retention: {each.task.name} has {len(each.items)} probe questions, but even if none of them "
                f"were lost it would take {needed} to be {promise.sure:.0%} sure of at most {promise.max_loss:.1%}",
                "ask more questions (limit), raise evaluate.splits.probe_fraction, promise less, or be less sure",
            )


def _questions(asked: TaskItems) -> list[Question]:
    delimiter = gold_delimiter(asked.task, "plain", "")
    return [
        Question(
            asked.task.name,
            plain_prompt(asked.task, item),
            tuple(delimiter + answer for answer in (item.gold, *(c for c in item.choices if c != item.gold))),
            known=False,
        )
        for item in asked.items
    ]


def _answered(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", questions: Sequence[Question]
) -> list[bool]:
    """Returns whether each question is answered: by the likeliest choice; without choices, by the likeliest tokens."""
    from mixcpt.evaluate.asking.gold import score_gold

    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def encode(text: str, starts: bool) -> list[int]:
        return [*(bos if starts else []), *tokenizer.encode(text, add_special_tokens=False)]

    pairs = [(question.prompt, answer) for question in questions for answer in question.answers]
    scores = iter(
        score_gold(
            model,
            encode,
            [prompt for prompt, _ in pairs],
            [answer for _, answer in pairs],
            batch_size=_BATCH_SIZE,
            max_tokens=int(model.config.get_text_config().max_position_embeddings),
        )
    )
    found = []
    for question in questions:
        right, *others = [next(scores) for _ in question.answers]
        found.append(all(right.log_prob > other.log_prob for other in others) if others else right.is_likeliest)
    return found
