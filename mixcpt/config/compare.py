"""Several methods side by side: what they share, what each of them changes, and how fairly each is tuned."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.base import Fraction, PositiveFloat, PositiveInt, Settings
from mixcpt.config.evaluate import Split
from mixcpt.config.runtime import RuntimeConfig

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Contender(Settings):
    """One method with its settings."""

    name: str = Field(pattern=NAME)
    """Name in every table."""
    settings: dict[str, Any] = Field({})
    """What it changes of the common settings; same keys, nested."""
    values: tuple[PositiveFloat, ...] = ()
    """Its own values to search, as LoRA wants larger learning rates; as many as the others have."""


class SearchConfig(Settings):
    """One setting of each contender is chosen, with the first seed, on questions that are not reported."""

    setting: str = "pretrain.optimizer.learning_rate"
    """Key path of the setting."""
    values: tuple[PositiveFloat, ...] = (3e-4, 1e-3)
    """What is tried; a single value is taken as it is."""
    domain_share: Fraction = 0.5
    """How much the domain's headline task counts in the choice; the general one's has the rest."""


class Claim(Settings):
    """What somebody expects of the comparison, written down before it; the page says whether it holds."""

    says: str = Field(min_length=1)
    """In words."""
    contender: str
    """Who is said to be better."""
    against: str = ""
    """Than whom; empty for the base."""
    task: str
    """At what."""
    by: float = 0.0
    """By how much at least, as a share (0.05 are five points) or in bits per byte; -0.02 claims to lose at most two
    points. The claim holds if the whole interval is better than that."""


class CompareConfig(Settings):
    """Compare methods at equal effort, each tuned alike, over several seeds."""

    name: str = Field("comparison", pattern=NAME)
    """Name of the comparison in Prefect, MLflow and the report."""
    settings: dict[str, Any] = Field({})
    """Settings that all contenders share; the keys are those of a run, what is not named has its default."""
    contenders: tuple[Contender, ...] = Field(min_length=1)
    """What is compared. The first one is what the others are measured against."""
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)
    """Each contender is trained with each of them."""
    search: SearchConfig = SearchConfig()
    """How each contender is tuned."""
    equal: Literal["tokens", "flops"] = "tokens"
    """What every training gets: as many tokens as the settings say, or as many operations as the cheapest contender
    needs for that many."""
    claims: tuple[Claim, ...] = ()
    """What is expected, and is put to the test."""
    jobs: PositiveInt = 1
    """Trainings at the same time on this machine."""

    @model_validator(mode="after")
    def _check(self) -> "CompareConfig":
        names = [contender.name for contender in self.contenders]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"contenders need names of their own; given twice: {', '.join(twice)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is given twice")
        for contender in self.contenders:
            if contender.values and len(contender.values) != len(self.search.values):
                raise ValueError(
                    f"{contender.name} tries {len(contender.values)} values where the others try "
                    f"{len(self.search.values)}: a search of equal size is part of a fair comparison"
                )
            self._check_contender(contender)
        for claim in self.claims:
            self._check_claim(claim, names)
        return self

    def _check_claim(self, claim: Claim, names: Sequence[str]) -> None:
        for name in (claim.contender, claim.against):
            if name and name not in names:
                raise ValueError(f"claim {claim.says!r}: {name} is none of the contenders: {', '.join(names)}")
        tasks = [task.name for task in self.first.evaluate.tasks]
        if claim.task not in tasks:
            raise ValueError(f"claim {claim.says!r}: {claim.task} is none of the tasks: {', '.join(tasks)}")

    def _check_contender(self, contender: Contender) -> None:
        for value in self.values(contender):
            try:
                self.adapt(contender, value, seed=self.seeds[0], split="report")
            except ValidationError as error:
                problems = "; ".join(f"{place(item['loc'])}: {item['msg']}" for item in error.errors())
                raise ValueError(f"contender {contender.name}: {problems}") from None

    @property
    def runtime(self) -> RuntimeConfig:
        """Places and processes, which all trainings share."""
        return RuntimeConfig.model_validate(self.settings.get("runtime", {}))

    @property
    def first(self) -> AdaptConfig:
        """The first training of the first contender, whose base and tasks are everybody's."""
        contender = self.contenders[0]
        return self.adapt(contender, self.values(contender)[0], seed=self.seeds[0], split="report")

    def placed(self, store: str) -> "CompareConfig":
        """Returns the same comparison with its artifacts in another folder."""
        return self.model_copy(update={"settings": merged(self.settings, {"runtime": {"store": store}})})

    def values(self, contender: Contender) -> tuple[float, ...]:
        """Returns what is tried for a contender."""
        return contender.values or self.search.values

    def adapt(
        self, contender: Contender, value: float, *, seed: int, split: Split, total_tokens: int = 0
    ) -> AdaptConfig:
        """Returns the settings of one training.

        Args:
            contender: Whose.
            value: Of the searched setting.
            seed: Of everything but the corpus and the questions, which all trainings share.
            split: Which questions it answers.
            total_tokens: Length of the training; 0 leaves it as it is.
        """
        data = merged(self.settings, contender.settings)
        data = merged(data, _nested(self.search.setting, value))
        data = merged(data, {"evaluate": {"split": split}, "name": f"{contender.name}-{seed}", "seed": seed})
        if total_tokens:
            data = merged(data, {"mixture": {"total_tokens": total_tokens}})
        return AdaptConfig.model_validate(data)


def merged(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings with the changes: maps are merged, a new `kind` starts anew, the rest is replaced."""
    result = dict(settings)
    for key, value in changes.items():
        known = result.get(key)
        if isinstance(known, Mapping) and isinstance(value, Mapping) and _is_same_kind(known, value):
            value = merged(known, value)
        result[key] = value
    return result


def _is_same_kind(known: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    return bool(value.get("kind", known.get("kind")) == known.get("kind"))


def _nested(key_path: str, value: Any) -> dict[str, Any]:
    """Returns {"a": {"b": value}} for `a.b`."""
    key, _, rest = key_path.partition(".")
    return {key: _nested(rest, value) if rest else value}


def place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"
