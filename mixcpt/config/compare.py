"""Comparison of several methods with equal tuning, and the search for a mixture, which ends with a comparison."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import NAME, Fraction, PositiveFloat, PositiveInt, Settings, require_unique
from mixcpt.config.evaluate import Split
from mixcpt.config.renames import PartOf
from mixcpt.config.runtime import RuntimeConfig

RunSettings = Annotated[dict[str, Any], PartOf(AdaptConfig)]
"""Some settings of a run, as nested plain values."""

Point = Mapping[str, float]
"""Values of the searched settings: `domain_share`, `alpha`, `learning_rate`."""

_WITH_ALPHA = ("lssd", "none", "mask")
_RATE = "pretrain.optimizer.learning_rate"


class Contender(Settings):
    """One method with its settings."""

    name: str = Field(pattern=NAME)
    """Name of the contender in all tables."""
    settings: RunSettings = Field({})
    """Changes to the common settings, with the same nested keys; empty changes nothing."""
    values: tuple[PositiveFloat, ...] = ()
    """Values of the searched setting for this contender, for instance larger learning rates for LoRA; as many as
    `search.values`. Empty means `search.values`."""


class SearchConfig(Settings):
    """Search for the best value of one setting per contender, on questions that are not reported."""

    setting: str = "pretrain.optimizer.learning_rate"
    """Key path of the searched setting."""
    values: tuple[PositiveFloat, ...] = (3e-4, 1e-3)
    """Values to try; a single value is used without a search."""
    domain_share: Fraction = 0.5
    """Weight of the headline domain task in the choice; the headline general task has the remaining weight."""


class Claim(Settings):
    """An expected result, written before the comparison; the report states whether it holds."""

    statement: str = Field(min_length=1)
    """Claim in words, as shown in the report."""
    contender: str
    """Contender claimed to be better."""
    against: str = ""
    """Contender that the first one is compared with; empty means the base."""
    task: str
    """Task on which the claim is tested."""
    by: float = 0.0
    """Minimum improvement, as a share (0.05 is five points) or in bits per byte. A negative value allows a loss: -0.02
    claims to lose at most two points. The claim holds if the whole interval is better than this."""


class CompareConfig(Settings):
    """Comparison of methods at equal effort, with equal tuning, over several seeds."""

    name: str = Field("comparison", pattern=NAME)
    """Name of the comparison in Prefect, MLflow and the report."""
    settings: RunSettings = Field({})
    """Settings that all contenders share, with the keys of a run; missing keys have their defaults."""
    contenders: tuple[Contender, ...] = Field(min_length=1)
    """Methods to compare; all others are measured against the first."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Training seeds; every contender is trained once with each."""
    search: SearchConfig = SearchConfig()
    """Search for the best value of one setting per contender."""
    equal: Literal["tokens", "flops"] = "tokens"
    """Budget that is equal for all trainings: `tokens` (as set in the settings), or `flops` (as many floating-point
    operations as the cheapest contender needs for these tokens)."""
    claims: tuple[Claim, ...] = ()
    """Expected results, tested by the comparison."""
    jobs: PositiveInt = 1
    """Number of trainings at the same time on this machine."""

    @model_validator(mode="after")
    def _check(self) -> "CompareConfig":
        names = [contender.name for contender in self.contenders]
        require_unique("contender names", names)
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice")
        for contender in self.contenders:
            if contender.values and len(contender.values) != len(self.search.values):
                raise ValueError(
                    f"{contender.name} has {len(contender.values)} values to search and the others have "
                    f"{len(self.search.values)}: a fair comparison needs the same number"
                )
            self._check_contender(contender)
        for claim in self.claims:
            self._check_claim(claim, names)
        return self

    def _check_claim(self, claim: Claim, names: Sequence[str]) -> None:
        for name in (claim.contender, claim.against):
            if name and name not in names:
                raise ValueError(f"claim {claim.statement!r}: {name} is none of the contenders: {', '.join(names)}")
        tasks = [task.name for task in self.first.evaluate.tasks]
        if claim.task not in tasks:
            raise ValueError(f"claim {claim.statement!r}: {claim.task} is none of the tasks: {', '.join(tasks)}")

    def _check_contender(self, contender: Contender) -> None:
        for value in self.values(contender):
            try:
                self.adapt(contender, value, seed=self.seeds[0], split="report")
            except ValidationError as error:
                raise ValueError(f"contender {contender.name}: {explain(error)}") from None

    @property
    def runtime(self) -> RuntimeConfig:
        """Places and processes of all trainings."""
        return RuntimeConfig.model_validate(self.settings.get("runtime", {}))

    @property
    def first(self) -> AdaptConfig:
        """First training of the first contender; the comparison uses its base and tasks."""
        contender = self.contenders[0]
        return self.adapt(contender, self.values(contender)[0], seed=self.seeds[0], split="report")

    def placed(self, store: str) -> "CompareConfig":
        """Return the same comparison with its artifacts in another folder."""
        return self.model_copy(update={"settings": merged(self.settings, {"runtime": {"store": store}})})

    def values(self, contender: Contender) -> tuple[float, ...]:
        """Return the values of the searched setting that a contender tries."""
        return contender.values or self.search.values

    def adapt(
        self, contender: Contender, value: float, *, seed: int, split: Split, total_tokens: int = 0
    ) -> AdaptConfig:
        """Return the settings of one training.

        Args:
            contender: Trained contender.
            value: Value of the searched setting.
            seed: Training seed; all trainings share corpus and questions.
            split: Questions to answer.
            total_tokens: Length of the training; 0 keeps that of the settings.
        """
        data = merged(self.settings, contender.settings)
        data = merged(data, _nested(self.search.setting, value))
        data = merged(data, {"evaluate": {"split": split}, "name": f"{contender.name}-{seed}", "seed": seed})
        if total_tokens:
            data = merged(data, {"mixture": {"total_tokens": total_tokens}})
        return AdaptConfig.model_validate(data)


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


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the changes: maps are merged, unless `kind` differs; other values are replaced."""
    result = dict(settings)
    for key, value in changes.items():
        known = result.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping) and _is_same_kind(known, value):
            value = merged(known, value)
        result[key] = value
    return result


def explain(error: ValidationError) -> str:
    """Return the problems of nested settings in one line, each with its key path."""
    return "; ".join(f"{_place(item['loc'])}: {item['msg'].removeprefix('Value error, ')}" for item in error.errors())


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"


def _is_same_kind(known: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return bool(value.get("kind", known.get("kind")) == known.get("kind"))


def _nested(key_path: str, value: Any) -> dict[str, Any]:
    """Return {"a": {"b": value}} for `a.b`."""
    key, _, rest = key_path.partition(".")
    return {key: _nested(rest, value) if rest else value}


def _rounded(value: float) -> float:
    """Return the value with three digits, so that nearly equal points share a training in the store."""
    return float(f"{value:.3g}")
