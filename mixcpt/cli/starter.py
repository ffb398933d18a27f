"""Settings for a user's own files, with the reason for each chosen value, as `mixcpt init` writes them."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixcpt.checks.defaults import Choice, choose, find_machine, source_tokens
from mixcpt.checks.heldout import HeldOut, choose_heldout, distinct_heldout, read_small_pool
from mixcpt.checks.model_size import ModelSize, model_size
from mixcpt.checks.names import is_reserved
from mixcpt.cli.fields import find_sources, num_records
from mixcpt.cli.questions import benchmark_tasks, question_tasks
from mixcpt.config import (
    SHIPPED_TEXT,
    AdaptConfig,
    BaseModelConfig,
    BitsPerByteTask,
    CurationConfig,
    FilesSource,
    Settings,
)
from mixcpt.errors import ConfigError
from mixcpt.evaluate.guessing import MIN_PASSAGES

_NUM_INSTRUCTIONS, _NUM_PREFERENCES = 200, 100
_HELDOUT_INSTRUCTIONS = 100
_ENOUGH_INSTRUCTIONS = 100
"""Number of instructions from which on a tenth of them is enough to measure."""
_ENOUGH_QUESTIONS = 20
"""Number of questions below which a headline figure says little."""
_LORA = {"kind": "lora", "rank": 64, "alpha": 128}
_LARGE_PARAMETERS = 1e9
_DATA_SEED = int(AdaptConfig.model_fields["data_seed"].default)
_DEFAULT_SHARE = float(CurationConfig.model_fields["heldout_fraction"].default)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Files and names that the user gave."""

    name: str
    """Name of the YAML file without its suffix."""
    model: str
    documents: Sequence[str]
    instructions: Sequence[str] = ()
    preferences: Sequence[str] = ()
    questions: Sequence[Path] = ()
    benchmarks: Sequence[str] = ()
    device: str = ""
    store: str = ""


@dataclass(frozen=True)
class Starter:
    """Settings of a run, and reasons for values by key path."""

    config: AdaptConfig
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Sentences for the terminal about the held-out documents."""


def starter(wanted: Wanted) -> Starter:
    """Return settings for a user's own files that can run without further edits.

    Raises:
        ConfigError: If a file does not exist, or has no fields that can be used.
    """
    if not Path(wanted.model).expanduser().is_dir() and wanted.model.startswith((".", "/", "~")):
        raise ConfigError(f"--model: there is no folder {wanted.model}", "name a folder, or a hub id (owner/model)")
    domain = find_sources("domain", wanted.documents, "--documents")
    instructions = find_sources("instructions", wanted.instructions, "--instructions")
    general = [*instructions, *find_sources("preferences", wanted.preferences, "--preferences")]
    size = model_size(BaseModelConfig(model=wanted.model))
    weights = {
        "domain": 0.5,
        "instructions": 0.4 * bool(wanted.instructions),
        "preferences": 0.1 * bool(wanted.preferences),
        "general": 0.0,
    }
    share = weights["domain"] / sum(weights.values())
    machine = find_machine(wanted.device)
    chosen = choose(size, machine, domain_tokens=source_tokens(domain), domain_share=share)
    settings: dict[str, Any] = {
        "name": run_name(wanted.name),
        "base": {"model": wanted.model},
        "curation": {"sources": tuple(_plain(source) for source in (*domain, *general))},
        "mixture": {"weights": weights},
        "pretrain": {"method": {"kind": "lssd" if general else "cpt"}},
        "align": {"selection": _selection(wanted)},
    }
    if wanted.store:
        settings["runtime"] = {"store": wanted.store}
    reasons = {}
    heldout = _heldout(instructions)
    documents, notes = _heldout_documents(domain)
    evaluation = _evaluation(wanted, size, documents, with_instructions=bool(heldout))
    for section in (
        _heldout_share(documents),
        heldout,
        _template(size, wanted),
        chosen,
        _scope(settings, chosen),
        evaluation,
    ):
        for key, choice in section.items():
            if _is_used(key, wanted):
                _place(settings, key, choice.value)
                reasons[key] = choice.reason
    if documents and documents.passage_characters:
        reasons[_passage_key(settings)] = "whole documents would be too few for an interval"
    return Starter(AdaptConfig.model_validate(settings), reasons, notes)


def run_name(stem: str) -> str:
    """Return a text as a valid name of a run."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._") or "run"
    return f"{name}-run" if is_reserved(name) else name


def _selection(wanted: Wanted) -> dict[str, int]:
    return {
        "num_instructions": _NUM_INSTRUCTIONS * bool(wanted.instructions),
        "num_preferences": _NUM_PREFERENCES * bool(wanted.preferences),
    }


def _is_used(key: str, wanted: Wanted) -> bool:
    """Return whether the run has the stage of a setting."""
    if key.startswith("align.sft"):
        return bool(wanted.instructions)
    return bool(wanted.preferences) or not key.startswith("align.dpo")


def _template(size: ModelSize, wanted: Wanted) -> dict[str, Choice]:
    """Return a chat template if the run aligns a model without one."""
    if size.has_chat_template is not False or not (wanted.instructions or wanted.preferences):
        return {}
    return {"base.chat_template": Choice("plain", "the model has no chat template of its own")}


def _scope(settings: Mapping[str, Any], chosen: Mapping[str, Choice]) -> dict[str, Choice]:
    """Return the scopes and the teacher; adapters need no second model as teacher."""
    choice = chosen["pretrain.scope"]
    if choice.value == "full":
        return {"pretrain.scope": Choice({"kind": "full"}, choice.reason)}
    adapters = "adapters, as in pre-training; the reference of DPO is the model without them"
    scopes = {
        "pretrain.scope": Choice(_LORA, choice.reason),
        "align.sft.scope": Choice(_LORA, adapters),
        "align.dpo.scope": Choice(_LORA, adapters),
    }
    if settings["pretrain"]["method"]["kind"] != "cpt":
        teacher = Choice({"kind": "adapter_off"}, "the student without its adapters is the base: no second model")
        scopes["pretrain.teacher"] = teacher
    return scopes


def _heldout(instructions: Sequence[FilesSource]) -> dict[str, Choice]:
    """Return the number of instructions to hold out; nothing if there are too few."""
    if num_records(instructions, limit=_ENOUGH_INSTRUCTIONS) < _ENOUGH_INSTRUCTIONS:
        return {}
    reason = "kept out of training; bits per byte of their answers show whether the model still writes such answers"
    return {"curation.heldout_instructions": Choice(_HELDOUT_INSTRUCTIONS, reason)}


def _heldout_documents(sources: Sequence[FilesSource]) -> tuple[HeldOut | None, tuple[str, ...]]:
    """Return the held-out part of few documents, and a sentence about it; None keeps the default."""
    records = read_small_pool(CurationConfig(sources=tuple(sources)), "domain")
    if not records:
        return None, ()
    chosen = choose_heldout(records, _DATA_SEED)
    if not chosen:
        heldout = distinct_heldout(records, _DEFAULT_SHARE, _DATA_SEED)
        number = f"{len(heldout)} passage{'' if len(heldout) == 1 else 's'}"
        return None, (
            f"{number} of the documents can be held out: fewer than {MIN_PASSAGES} have no interval; "
            "add documents, or questions about them with --questions FILE",
        )
    if chosen.fraction == _DEFAULT_SHARE and not chosen.passage_characters:
        return None, ()
    return chosen, (f"curation.heldout_fraction is {chosen.fraction:g}: {_share_reason(chosen)}",)


def _heldout_share(documents: HeldOut | None) -> dict[str, Choice]:
    return {"curation.heldout_fraction": Choice(documents.fraction, _share_reason(documents))} if documents else {}


def _share_reason(heldout: HeldOut) -> str:
    passages = f"{heldout.num_passages} passages"
    if heldout.num_documents != heldout.num_passages:
        passages += f" of {heldout.num_documents} document{'s' if heldout.num_documents > 1 else ''}"
    return f"{passages} are kept out of training; fewer than {MIN_PASSAGES} have no interval"


def _passage_key(settings: Mapping[str, Any]) -> str:
    """Return the key path of the length of passages in the reasons."""
    tasks = settings["evaluate"]["tasks"]
    index = next(index for index, task in enumerate(tasks) if "passage_characters" in task)
    return f"evaluate.tasks.{index}.passage_characters"


def _evaluation(
    wanted: Wanted, size: ModelSize, documents: HeldOut | None, *, with_instructions: bool
) -> dict[str, Choice]:
    """Return the tasks: new knowledge by held-out documents and questions, prior knowledge by general text."""
    cut: dict[str, Any] = {}
    if documents and documents.passage_characters:
        cut["passage_characters"] = documents.passage_characters
    bits = BitsPerByteTask(name="domain_bits_per_byte", group="domain", heldout_pool="domain", **cut)
    general = BitsPerByteTask(name="general_text", group="general", path=SHIPPED_TEXT)
    answers = BitsPerByteTask(name="general_instructions", group="general", heldout_pool="instructions")
    questions = question_tasks(wanted.questions)
    benchmarks = benchmark_tasks(wanted.benchmarks)
    tasks = (*(task for task, _ in questions), bits, *benchmarks, general, *([answers] if with_instructions else []))
    enough = [task.name for task, count in questions if count >= _ENOUGH_QUESTIONS]
    about_domain = "the questions show what the model can use" if enough else "documents kept out of training"
    if questions and not enough:
        about_domain += f", because fewer than {_ENOUGH_QUESTIONS} questions decide nothing"
    about_general = "general text that comes with mixcpt; a rise of its bits per byte shows forgetting"
    settings = {
        "evaluate.tasks": Choice(
            tuple(_plain(task) for task in tasks),
            "domain tasks show learning, general tasks forgetting; `mixcpt init --reference` lists all forms",
        ),
        "evaluate.headline_domain": Choice((*enough, bits.name)[0], about_domain),
        "evaluate.headline_general": Choice(general.name, about_general),
    }
    if size.num_parameters >= _LARGE_PARAMETERS:
        settings["evaluate.kl_to_base"] = Choice(False, "needs two models of this size in memory")
        settings["evaluate.batch_size"] = Choice(8, "fits the memory with a model of this size")
    return settings


def _plain(settings: Settings) -> dict[str, Any]:
    """Return the settings that were given, as plain values."""
    return settings.model_dump(include={"kind"}) | settings.model_dump(exclude_unset=True)


def _place(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a key path, and create the sections on the way."""
    *sections, name = key.split(".")
    for section in sections:
        settings = settings.setdefault(section, {})
    settings[name] = value
