"""Advice on a mixture: which settings are searched, how far, and how the choice is confirmed."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ValidationError, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Fraction, PositiveInt, Settings
from mixcpt.config.compare import NAME, CompareConfig, Contender, SearchConfig, merged, place
from mixcpt.config.evaluate import Split
from mixcpt.config.runtime import RuntimeConfig

Point = Mapping[str, float]
"""A value for each searched setting: `domain_share`, `alpha`, `learning_rate`."""

_WITH_ALPHA = ("lssd", "none", "mask")
_RATE = "pretrain.optimizer.learning_rate"


class Span(Settings):
    """From where to where a setting is searched."""

    low: float = Field(gt=0)
    """Least value."""
    high: float = Field(gt=0)
    """Greatest value."""

    @model_validator(mode="after")
    def _check(self) -> "Span":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class AdviseConfig(Settings):
    """Search share of the domain, alpha and learning rate together, then hold the best against the settings given."""

    name: str = Field("advice", pattern=NAME)
    """Name of the search in Prefect, MLflow and the report."""
    settings: dict[str, Any] = Field({})
    """Settings of a run to start from; the keys are those of a run, what is not named has its default."""
    domain_share: Span = Span(low=0.3, high=0.9)
    """Share of the domain in the mixture; the other pools share the rest as they do in the settings."""
    alpha: Span = Span(low=0.1, high=0.9)
    """Weight of next-token prediction beside self-distillation; searched where the method has it (lssd, none, mask)."""
    learning_rate: Span = Span(low=2e-4, high=3e-3)
    """Learning rate of pre-training, on a logarithmic scale."""
    num_trials: int = Field(16, ge=4)
    """Trainings of the search, the first one with the settings as they are."""
    seed: int = Field(0, ge=0)
    """Of the search, and of the trainings in it."""
    domain_weight: Fraction = 0.5
    """How much the domain's headline task counts in the choice; the general one's has the rest."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """With each of them the recommended settings and those given are trained, and asked what is reported."""
    jobs: PositiveInt = 1
    """Trainings at the same time on this machine; part of the search, as so many points are drawn before an answer."""

    @model_validator(mode="after")
    def _check(self) -> "AdviseConfig":
        for corner in ("low", "high"):
            try:
                self.adapt({name: getattr(span, corner) for name, span in self.space.items()}, split="selection")
            except ValidationError as error:
                problems = "; ".join(f"{place(item['loc'])}: {item['msg']}" for item in error.errors())
                raise ValueError(f"settings: {problems}") from None
        weights = self.given.mixture.weights.model_dump()
        if self.domain_share.high >= 1 or not sum(weights.values()) > weights["domain"]:
            raise ValueError("domain_share needs another pool with a weight above 0 in the settings, and high below 1")
        return self

    @property
    def given(self) -> AdaptConfig:
        """The settings as they are."""
        return AdaptConfig.model_validate(merged(self.settings, {"evaluate": {"split": "selection"}}))

    @property
    def space(self) -> dict[str, Span]:
        """What is searched."""
        found = {"domain_share": self.domain_share, "learning_rate": self.learning_rate}
        return found | ({"alpha": self.alpha} if self._has_alpha else {})

    @property
    def start(self) -> dict[str, float]:
        """The settings as they are, as a point of the space."""
        given = self.given
        weights = given.mixture.weights.model_dump()
        point = {
            "domain_share": weights["domain"] / sum(weights.values()),
            "learning_rate": given.pretrain.optimizer.learning_rate,
        }
        return point | ({"alpha": getattr(given.pretrain.method, "alpha", 0.5)} if self._has_alpha else {})

    @property
    def runtime(self) -> RuntimeConfig:
        """Places and processes."""
        return RuntimeConfig.model_validate(self.settings.get("runtime", {}))

    def placed(self, store: str) -> "AdviseConfig":
        """Returns the same search with its artifacts in another folder."""
        return self.model_copy(update={"settings": merged(self.settings, {"runtime": {"store": store}})})

    def adapt(self, point: Point, *, split: Split) -> AdaptConfig:
        """Returns the settings of one training of the search."""
        changes = {"evaluate": {"split": split}, "seed": self.seed, "name": f"{self.name}-{self.seed}"}
        return AdaptConfig.model_validate(merged(merged(self.settings, self.changes(point)), changes))

    def changes(self, point: Point) -> dict[str, Any]:
        """Returns what a point changes of the settings, as keys of a run."""
        general = {name: value for name, value in self._weights.items() if name != "domain"}
        scale = (1 - point["domain_share"]) / (sum(general.values()) or 1)
        weights = {"domain": point["domain_share"]} | {name: value * scale for name, value in general.items()}
        found: dict[str, Any] = {
            "mixture": {"weights": {name: _rounded(value) for name, value in weights.items()}},
            "pretrain": {"optimizer": {"learning_rate": _rounded(point["learning_rate"])}},
        }
        if "alpha" in point:
            found["pretrain"]["method"] = {"kind": self._method, "alpha": _rounded(point["alpha"])}
        return found

    def confirmation(self, best: Point) -> CompareConfig:
        """Returns the comparison of the best point with the settings as they are, over all seeds."""
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
        return str(self.settings.get("pretrain", {}).get("method", {}).get("kind", "lssd"))

    @property
    def _has_alpha(self) -> bool:
        return self._method in _WITH_ALPHA

    @property
    def _weights(self) -> dict[str, float]:
        weights: dict[str, float] = self.given.mixture.weights.model_dump()
        return weights


def _rounded(value: float) -> float:
    """Returns three digits: the same training for what is the same in effect."""
    return float(f"{value:.3g}")
