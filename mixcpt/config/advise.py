"""Advice on a mixture: the search ranges of its settings, and the comparison that confirms the choice."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Fraction, PositiveInt, Settings
from mixcpt.config.compare import NAME, CompareConfig, Contender, RunSettings, SearchConfig, explain, merged
from mixcpt.config.evaluate import Split
from mixcpt.config.runtime import RuntimeConfig

Point = Mapping[str, float]
"""Values of the searched settings: `domain_share`, `alpha`, `learning_rate`."""

_WITH_ALPHA = ("lssd", "none", "mask")
_RATE = "pretrain.optimizer.learning_rate"


class Span(Settings):
    """Search range of one setting."""

    low: float = Field(gt=0)
    """Lower end of the range."""
    high: float = Field(gt=0)
    """Upper end of the range."""

    @model_validator(mode="after")
    def _check(self) -> "Span":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class AdviseConfig(Settings):
    """Search for domain share, alpha and learning rate; the best point is then compared with the given settings."""

    name: str = Field("advice", pattern=NAME)
    """Name of the search in Prefect, MLflow and the report."""
    settings: RunSettings = Field({})
    """Settings of a run to start from, with the keys of a run; missing keys have their defaults."""
    domain_share: Span = Span(low=0.3, high=0.9)
    """Search range of the domain's share in the mixture; the other pools keep their ratio to each other."""
    alpha: Span = Span(low=0.1, high=0.9)
    """Search range of the weight of next-token prediction, relative to self-distillation; only for methods that have it
    (lssd, none, mask)."""
    learning_rate: Span = Span(low=2e-4, high=3e-3)
    """Search range of the pre-training learning rate, on a logarithmic scale."""
    num_trials: int = Field(16, ge=4)
    """Number of trainings in the search; the first one uses the given settings."""
    seed: int = Field(0, ge=0)
    """Seed of the search and of its trainings."""
    domain_weight: Fraction = 0.5
    """Weight of the headline domain task in the choice; the headline general task has the remaining weight."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Seeds of the final comparison; the recommended and the given settings are trained once with each."""
    jobs: PositiveInt = 1
    """Number of trainings at the same time on this machine. Changes the search: this many points are drawn before the
    first of them has a result."""

    @model_validator(mode="after")
    def _check(self) -> "AdviseConfig":
        for corner in ("low", "high"):
            try:
                self.adapt({name: getattr(span, corner) for name, span in self.space.items()}, split="selection")
            except ValidationError as error:
                raise ValueError(f"settings: {explain(error)}") from None
        weights = self.given.mixture.weights.model_dump()
        if self.domain_share.high >= 1 or not sum(weights.values()) > weights["domain"]:
            raise ValueError("domain_share needs another pool with a weight above 0 in the settings, and high below 1")
        return self

    @property
    def given(self) -> AdaptConfig:
        """Given settings, unchanged except for the selection split."""
        return AdaptConfig.model_validate(merged(self.settings, {"evaluate": {"split": "selection"}}))

    @property
    def space(self) -> dict[str, Span]:
        """Search ranges by setting."""
        ranges = {"domain_share": self.domain_share, "learning_rate": self.learning_rate}
        return ranges | ({"alpha": self.alpha} if self._has_alpha else {})

    @property
    def start(self) -> dict[str, float]:
        """Given settings as a point of the search space."""
        given = self.given
        weights = given.mixture.weights.model_dump()
        point = {
            "domain_share": weights["domain"] / sum(weights.values()),
            "learning_rate": given.pretrain.optimizer.learning_rate,
        }
        return point | ({"alpha": getattr(given.pretrain.method, "alpha", 0.5)} if self._has_alpha else {})

    @property
    def runtime(self) -> RuntimeConfig:
        """Places and processes of all trainings."""
        return RuntimeConfig.model_validate(self.settings.get("runtime", {}))

    def placed(self, store: str) -> "AdviseConfig":
        """Return the same search with its artifacts in another folder."""
        return self.model_copy(update={"settings": merged(self.settings, {"runtime": {"store": store}})})

    def adapt(self, point: Point, *, split: Split) -> AdaptConfig:
        """Return the settings of one training of the search."""
        changes = {"evaluate": {"split": split}, "seed": self.seed, "name": f"{self.name}-{self.seed}"}
        return AdaptConfig.model_validate(merged(merged(self.settings, self.changes(point)), changes))

    def changes(self, point: Point) -> dict[str, Any]:
        """Return the settings of a run that a point changes."""
        general = {name: value for name, value in self._weights.items() if name != "domain"}
        scale = (1 - point["domain_share"]) / (sum(general.values()) or 1)
        weights = {"domain": point["domain_share"]} | {name: value * scale for name, value in general.items()}
        changes: dict[str, Any] = {
            "mixture": {"weights": {name: _rounded(value) for name, value in weights.items()}},
            "pretrain": {"optimizer": {"learning_rate": _rounded(point["learning_rate"])}},
        }
        if "alpha" in point:
            changes["pretrain"]["method"] = {"kind": self._method, "alpha": _rounded(point["alpha"])}
        return changes

    def confirmation(self, best: Point) -> CompareConfig:
        """Return the comparison of the best point with the given settings, over all seeds."""
        contenders = tuple(
            Contender(name=name, settings=self.changes(point), values=(_rounded(point["learning_rate"]),))
            for name, point in (("given", self.start), ("advised", best))
        )
        search = SearchConfig(setting=_RATE, values=(1.0,), domain_share=self.domain_weight)
        return CompareConfig(
            name=self.name,
            settings=self.settings,
            contenders=contenders,
            seeds=self.seeds,
            search=search,
            jobs=self.jobs,
        )

    @property
    def _method(self) -> str:
        return self.given.pretrain.method.kind

    @property
    def _has_alpha(self) -> bool:
        return self._method in _WITH_ALPHA

    @property
    def _weights(self) -> dict[str, float]:
        weights: dict[str, float] = self.given.mixture.weights.model_dump()
        return weights


def _rounded(value: float) -> float:
    """Return the value with three digits, so that nearly equal points share a training in the store."""
    return float(f"{value:.3g}")
