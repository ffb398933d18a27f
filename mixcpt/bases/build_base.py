"""Build and verify the small base model of the closed world, with the stages that adapt any model."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mixcpt.bases.new_base import Shape, write_llama
from mixcpt.closed_world.base_data import BaseDataSize, base_documents
from mixcpt.closed_world.card import model_card
from mixcpt.closed_world.reading import reading_losses
from mixcpt.closed_world.tokenizer import build_tokenizer, vocabulary
from mixcpt.config import (
    BaseModelConfig,
    ClosedWorldSource,
    ClosedWorldTask,
    CptReplayMethod,
    CurationConfig,
    EvaluateConfig,
    FilesSource,
    MixtureConfig,
    OptimizerConfig,
    PoolWeights,
    PretrainConfig,
    WorldForm,
)
from mixcpt.curation.pipeline import curate
from mixcpt.errors import ModelError
from mixcpt.evaluate import evaluate
from mixcpt.evaluate.asking.definitions import Form
from mixcpt.evaluate.summary import EvaluationSummary, TaskScore
from mixcpt.mixture.pipeline import mix
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.fingerprint import file_digest
from mixcpt.store.models import ModelRef, resolve_model
from mixcpt.store.spool import NullTracker, Tracker
from mixcpt.train.metrics import TrainingMetrics
from mixcpt.train.pretrain import pretrain

NETWORK = Shape(hidden=192, layers=4, heads=6, context=512)
"""Two million parameters."""
DATA = BaseDataSize()
MIXTURE = MixtureConfig(
    weights=PoolWeights(domain=0.8, instructions=0.2, preferences=0.0),
    total_tokens=4_200_000,
    row_tokens=256,
    special_tokens="parse",  # dialogues are written with the role tokens
)
PRETRAIN = PretrainConfig(
    method=CptReplayMethod(), optimizer=OptimizerConfig(learning_rate=1.5e-3), checkpoint_steps=500, log_steps=20
)

ACCURACY_TOLERANCE = 0.02
LOSS_TOLERANCE = 0.1
"""Tolerances of the scores: other processors round differently, which changes a few answers. Weights must be equal."""

_RECIPE = "recipe.json"
_CARD = "README.md"
_WEIGHTS = "model.safetensors"
_MODEL_FILES = (
    *(_WEIGHTS, "config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
)
_LIBRARIES = ("torch", "transformers", "tokenizers")
_ITEMS_PER_TASK = 400
_NUM_READ_STRANGERS = 200
_UNREAD_SEED = 1_000_003
"""Seed of entities that no training has read; far from any seed of a training."""
_NO_CORPUS = ArtifactRef("corpus", "", "", "")
"""Placeholder: questions about the world need no corpus."""

About = Literal["domain", "general_asked", "general_unasked"]


def build_base(output: Path, *, seed: int = 0, tracker: Tracker) -> dict[str, Any]:
    """Train a base model on the general part of world `seed`, write it to `output`, and return its scores.

    Raises:
        ModelError: If `output` is not empty.
    """
    if output.exists() and any(output.iterdir()):
        raise ModelError(f"{output} is not empty", "name a new folder, or empty this one")
    with TemporaryDirectory(prefix="mixcpt-base-") as scratch:
        store = ArtifactStore(Path(scratch) / "store")
        trained = _train(Path(scratch), store, seed, tracker)
        output.mkdir(parents=True, exist_ok=True)
        for name in _MODEL_FILES:
            shutil.copyfile(trained.file("model") / name, output / name)
        recipe = _recipe(output, TrainingMetrics.of(trained), seed, _measure(output, seed, tracker))
    (output / _RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
    (output / _CARD).write_text(model_card(recipe, max_positions=NETWORK.context))
    return _flat(recipe["scores"])


def verify_base(folder: Path) -> dict[str, Any]:
    """Measure the scores of a base model again, and compare them and the weights with its recipe.

    Raises:
        ModelError: If the folder has no recipe.
    """
    recipe = read_recipe(folder)
    measured = _flat(_measure(folder, recipe["seed"], NullTracker()))
    recorded = _flat(recipe["scores"])
    digest_fits = file_digest(folder / _WEIGHTS) == recipe["weights_sha256"]
    tolerances = {name: ACCURACY_TOLERANCE if name.startswith("accuracy/") else LOSS_TOLERANCE for name in recorded}
    scores_fit = all(abs(measured[name] - recorded[name]) <= tolerances[name] for name in recorded)
    return {**measured, "digest_fits": digest_fits, "scores_fit": scores_fit, "verified": digest_fits and scores_fit}


def read_recipe(folder: Path) -> dict[str, Any]:
    """Return the recipe of a base model: its settings, versions, digest and scores.

    Raises:
        ModelError: If the folder has no recipe.
    """
    try:
        recipe: dict[str, Any] = json.loads((folder / _RECIPE).read_text())
    except OSError:
        raise ModelError(f"{folder} has no {_RECIPE}", "build a base model: mixcpt world build-base FOLDER") from None
    return recipe


def write_untrained(folder: Path, *, seed: int) -> None:
    """Write a model folder with random weights and the tokenizer of the closed world."""
    write_llama(folder, build_tokenizer(), NETWORK, seed=seed)


def _train(scratch: Path, store: ArtifactStore, seed: int, tracker: Tracker) -> ArtifactRef:
    write_untrained(scratch / "untrained", seed=seed)
    untrained = resolve_model(BaseModelConfig(model=str(scratch / "untrained")))
    corpus = curate(_sources(scratch, seed), seed=seed, store=store)
    mixture = mix(MIXTURE, corpus, untrained, seed=seed, store=store, streams=PRETRAIN.method.streams())
    return pretrain(PRETRAIN, mixture, untrained, seed=seed, store=store, tracker=tracker)


def _sources(scratch: Path, seed: int) -> CurationConfig:
    """Write the training texts and return them as sources; no text is removed, because repetition is intended."""
    path = scratch / "base-documents.jsonl"
    with path.open("w") as stream:
        stream.writelines(json.dumps(record) + "\n" for record in base_documents(seed, DATA))
    documents = FilesSource(name="base-documents", pool="domain", paths=(str(path),))
    questions = ClosedWorldSource(name="base-instructions", pool="instructions", seed=seed)
    return CurationConfig(sources=(documents, questions), deduplicate=False, heldout_fraction=0.0)


def _measure(folder: Path, seed: int, tracker: Tracker) -> dict[str, dict[str, float]]:
    """Measure the accuracy by kind and form of question, and the reading losses."""
    model = resolve_model(BaseModelConfig(model=str(folder)))
    tasks_by_form: dict[Form, tuple[ClosedWorldTask, ...]] = {"plain": _plain_tasks(seed), "chat": _questions(seed)}
    accuracy: dict[str, float] = {}
    with TemporaryDirectory(prefix="mixcpt-base-") as scratch:
        ask = partial(_ask, model, seed=seed, store=ArtifactStore(scratch), tracker=tracker)
        for form, tasks in tasks_by_form.items():
            accuracy |= {f"{form}_{score.task}": score.value for score in ask(tasks, form=form)}
        for form in tasks_by_form:
            scores = ask(_questions(seed)[:1], form=form, with_documents=True)
            accuracy |= {f"{form}_{score.task}_with_document": score.value for score in scores}
    reading = reading_losses(model, seed=_UNREAD_SEED + seed, num_strangers=_NUM_READ_STRANGERS)
    return {
        "accuracy": {name: round(value, 4) for name, value in accuracy.items()},
        "reading": {name: round(value, 4) for name, value in reading.items()},
    }


def _ask(model: ModelRef, tasks: tuple[ClosedWorldTask, ...], **options: Any) -> tuple[TaskScore, ...]:
    config = EvaluateConfig(tasks=tasks, headline_domain=tasks[0].name, headline_general=tasks[-1].name)
    return EvaluationSummary.of(evaluate(config, model, _NO_CORPUS, **options)).tasks


def _questions(seed: int) -> tuple[ClosedWorldTask, ...]:
    abouts: tuple[About, ...] = ("domain", "general_asked", "general_unasked")
    indirect: tuple[WorldForm, ...] = ("reworded", "reverse", "two_hop", "free_text")
    return (
        *(_task(about, "question", seed) for about in abouts),
        *(_task("general_unasked", form, seed) for form in indirect),
    )


def _plain_tasks(seed: int) -> tuple[ClosedWorldTask, ...]:
    return (*_questions(seed), _task("domain", "memory", seed), _task("general_unasked", "memory", seed))


def _task(about: About, form: WorldForm, seed: int) -> ClosedWorldTask:
    group: Literal["domain", "general"] = "domain" if about == "domain" else "general"
    name = f"{about}_{form}"
    return ClosedWorldTask(name=name, group=group, about=about, form=form, limit=_ITEMS_PER_TASK, seed=seed)


def _recipe(folder: Path, metrics: TrainingMetrics, seed: int, scores: dict[str, Any]) -> dict[str, Any]:
    return {
        "command": f"mixcpt world build-base FOLDER --seed {seed}",
        "seed": seed,
        "settings": {"data": asdict(DATA), "mixture": MIXTURE.identity(), "pretrain": PRETRAIN.identity()},
        "versions": {name: version(name) for name in _LIBRARIES},
        "tokens": metrics.tokens,
        "steps": metrics.steps,
        "train_seconds": metrics.train_seconds,
        "num_parameters": metrics.num_parameters,
        "num_words": len(vocabulary()),
        "weights_sha256": file_digest(folder / _WEIGHTS),
        "scores": scores,
    }


def _flat(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for group, group_scores in scores.items():
        flat |= {f"{group}/{name}": score for name, score in group_scores.items()}
    return flat
