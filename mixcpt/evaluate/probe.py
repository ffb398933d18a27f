"""The probe: questions that steer training and appear in no report, with the base model's results on them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mixcpt.config import EvaluateConfig, RetentionConfig
from mixcpt.errors import ConfigError
from mixcpt.evaluate.asking.definitions import gold_delimiter, plain_prompt
from mixcpt.evaluate.asking.tasks import TaskItems, read_tasks
from mixcpt.stages.jobs import Job
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics, StageKey
from mixcpt.store.models import ModelRef, load_model, load_tokenizer
from mixcpt.store.spool import Tracker
from mixcpt.train.tally import Tally, questions_needed

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_VERSION = 1
_FILE = "questions.json"
_BATCH_SIZE = 64


@dataclass(frozen=True)
class Question:
    """One question in plain form, the form that is used during training."""

    task: str
    prompt: str
    answers: tuple[str, ...]
    """The correct answer first, then the other choices if there are any; each with the white space before it."""
    known: bool
    """Whether the base answers it correctly."""


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
    """Draw the probe questions of some tasks, answer them with the base, and publish both.

    Args:
        config: The tasks and the split fractions.
        promise: Retention promise that the questions must be able to verify.
        seed: Seed that draws the questions of tasks with a limit.

    Raises:
        ConfigError: If a task has too few questions to verify the promise, even if none of them is lost.
    """
    probe_tasks = _read(config, tasks, corpus, seed)
    _check_size(probe_tasks, promise)

    def build(folder: Path) -> Metrics:
        questions = list(chain.from_iterable(_questions(task) for task in probe_tasks))
        known = _is_correct(load_model(base), load_tokenizer(base), questions)
        rows = [asdict(question) | {"known": is_known} for question, is_known in zip(questions, known, strict=True)]
        (folder / _FILE).write_text(json.dumps(rows, indent=1, ensure_ascii=False))
        return {"questions": len(rows), "known": sum(known)}

    return store.produce(_key(probe_tasks, base), build, lineage={"base": base.to_json()})


def probe_key(
    config: EvaluateConfig, tasks: Sequence[str], base: ModelRef, corpus: ArtifactRef, *, seed: int
) -> StageKey:
    """Return the identity of the probe of `draw_probe`; reads the questions, but imports no torch or transformers."""
    return _key(_read(config, tasks, corpus, seed), base)


class StoredProbe:
    """A published probe that a training loop can run (`mixcpt.train.retention.Probe`)."""

    def __init__(self, ref: ArtifactRef, base: ModelRef) -> None:
        self.digest = ref.digest
        self._path = ref.file(_FILE)
        self._base = base

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        return load_tokenizer(self._base)

    @cached_property
    def _questions(self) -> list[Question]:
        rows: list[dict[str, Any]] = json.loads(self._path.read_text())
        return [Question(row["task"], row["prompt"], answers=tuple(row["answers"]), known=row["known"]) for row in rows]

    def ask(self, model: "nn.Module") -> Mapping[str, Tally]:
        """Return the change against the base, per task."""
        correct = _is_correct(cast("PreTrainedModel", model), self._tokenizer, self._questions)
        changes: dict[str, list[tuple[bool, bool]]] = {}
        for question, is_correct in zip(self._questions, correct, strict=True):
            changes.setdefault(question.task, []).append((question.known, is_correct))
        return {
            task: Tally(len(pairs), lost=pairs.count((True, False)), gained=pairs.count((False, True)))
            for task, pairs in changes.items()
        }


def _read(config: EvaluateConfig, names: Sequence[str], corpus: ArtifactRef, seed: int) -> list[TaskItems]:
    tasks = tuple(task for task in config.tasks if task.name in names)
    return read_tasks(config.model_copy(update={"tasks": tasks, "split": "probe"}), corpus, seed=seed)


def _key(tasks: Sequence[TaskItems], base: ModelRef) -> StageKey:
    settings = {"tasks": [task.config.identity() for task in tasks]}
    inputs = {"base": base.digest} | {f"items/{task.name}": task.digest for task in tasks}
    return StageKey("probe", _VERSION, settings, inputs)


def _check_size(tasks: Sequence[TaskItems], promise: RetentionConfig) -> None:
    needed = questions_needed(promise.max_loss, promise.confidence)
    for task in tasks:
        if len(task.items) < needed:
            raise ConfigError(
                f"pretrain.retention: {task.name} has {len(task.items)} probe questions, but {needed} are needed to "
                f"show with {promise.confidence:.0%} confidence that at most {promise.max_loss:.1%} is lost",
                "raise the task's limit, evaluate.splits.probe_fraction or max_loss, or lower retention.confidence",
            )


def _questions(task: TaskItems) -> Iterator[Question]:
    delimiter = gold_delimiter(task.config, "plain", "")
    for item in task.items:
        others = [choice for choice in item.choices if choice != item.gold]
        answers = tuple(delimiter + answer for answer in (item.gold, *others))
        yield Question(task.name, plain_prompt(task.config, item), answers=answers, known=False)


def _is_correct(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", questions: Sequence[Question]
) -> list[bool]:
    """Return whether the model answers each question correctly.

    With choices, the correct one must be the most likely; without, each of its tokens must be the most likely one.
    """
    from mixcpt.evaluate.asking.gold import score_gold

    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def encode(text: str, starts: bool) -> list[int]:
        return [*(bos if starts else []), *tokenizer.encode(text, add_special_tokens=False)]

    prompts = chain.from_iterable([question.prompt] * len(question.answers) for question in questions)
    answers = chain.from_iterable(question.answers for question in questions)
    scores = iter(
        score_gold(
            model,
            encode,
            list(prompts),
            list(answers),
            batch_size=_BATCH_SIZE,
            max_tokens=int(model.config.get_text_config().max_position_embeddings),
        )
    )
    results = []
    for question in questions:
        gold, *others = [next(scores) for _ in question.answers]
        is_best = all(gold.log_prob > other.log_prob for other in others)
        results.append(is_best if others else gold.is_likeliest)
    return results


def job_key(job: Job) -> StageKey:
    """Return the key of the probe of a job."""
    config, _ = _settings(job)
    return probe_key(config, job.config["tasks"], job.model("base"), job.artifact("corpus"), seed=job.seed)


def run_job(job: Job, store: ArtifactStore, tracker: Tracker) -> ArtifactRef:
    """Run the job `probe`."""
    config, promise = _settings(job)
    tasks, base, corpus = job.config["tasks"], job.model("base"), job.artifact("corpus")
    return draw_probe(config, promise, tasks, base, corpus, seed=job.seed, store=store)


def _settings(job: Job) -> tuple[EvaluateConfig, RetentionConfig]:
    config = EvaluateConfig.model_validate(job.config["evaluate"])
    return config, RetentionConfig.model_validate(job.config["retention"])
