"""Comparisons and searches around the settings of a run, as `mixcpt init --compare` and `--advise` write them."""

from typing import Any

from mixcpt.cli.starter import Starter
from mixcpt.config import AdaptConfig, AdviseConfig, CompareConfig
from mixcpt.config.traditional import traditional_chain
from mixcpt.config.writing import to_yaml
from mixcpt.errors import ConfigError

_SPREAD = 3
"""Factor between the searched learning rates."""


def comparison_yaml(starter: Starter) -> str:
    """Return a comparison of a run with the traditional chain, as YAML with comments."""
    run = _require_general(starter.config, "--compare")
    chain = traditional_chain(run)
    traditional = {
        "mixture": {"weights": chain.mixture.weights.model_dump()},
        "pretrain": {"method": {"kind": chain.pretrain.method.kind}, "teacher": {"kind": chain.pretrain.teacher.kind}},
        "align": {"selection": {"strategy": chain.align.selection.strategy}},
    }
    rate = run.pretrain.optimizer.learning_rate
    study = CompareConfig.model_validate(
        {
            "name": f"{run.name}-comparison",
            "settings": _settings(run),
            "contenders": ({"name": "traditional", "settings": traditional}, {"name": "mix-cpt", "settings": {}}),
            "seeds": (0, 1, 2),
            "search": {"values": (_rounded(rate / _SPREAD), rate)},
        }
    )
    reasons = {
        "contenders": "the first one is the traditional chain; others are measured against it",
        "seeds": "two contenders x (two rates + two further seeds) are eight trainings",
        "search": "every contender gets the better of two learning rates",
    }
    return _with_settings(study, starter, reasons)


def search_yaml(starter: Starter) -> str:
    """Return a search around the settings of a run, as YAML with comments."""
    run = _require_general(starter.config, "--advise")
    rate = run.pretrain.optimizer.learning_rate
    study = AdviseConfig.model_validate(
        {
            "name": f"{run.name}-search",
            "settings": _settings(run),
            "domain_share": {"low": 0.3, "high": 0.9},
            "learning_rate": {"low": _rounded(rate / _SPREAD), "high": _rounded(rate * _SPREAD)},
            "num_trials": 12,
            "seeds": (0, 1, 2),
        }
    )
    reasons = {
        "learning_rate": "around the usual rate of a model of this size",
        "num_trials": "twelve trainings for the search, and six for the comparison at its end",
    }
    return _with_settings(study, starter, reasons)


def _require_general(run: AdaptConfig, option: str) -> AdaptConfig:
    if run.pretrain.method.kind == "cpt":
        raise ConfigError(
            f"{option} needs general text: without it, the run is the traditional chain itself",
            "name general instructions with --instructions FILE",
        )
    return run


def _settings(run: AdaptConfig) -> dict[str, Any]:
    """Return the settings that were given, without the name, which every training gets from the study."""
    return run.model_dump(mode="json", exclude_unset=True, exclude={"name"})


def _with_settings(study: CompareConfig | AdviseConfig, starter: Starter, reasons: dict[str, str]) -> str:
    reasons = reasons | {f"settings.{key}": reason for key, reason in starter.reasons.items()}
    run = starter.config.model_validate({**_settings(starter.config)})
    return to_yaml(study, only_set=True, reasons=reasons, sections={"settings": run})


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
