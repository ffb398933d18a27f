"""Check of optimizers, rates, precision and passes over the documents against model and device."""

from collections.abc import Iterator

from mixcpt.checks import defaults
from mixcpt.checks.defaults import ScopeKind
from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.model_size import ModelSize, count_text, folder_size
from mixcpt.config import AdaptConfig, FilesSource, OptimizerConfig, require_optimizer
from mixcpt.errors import MixcptError
from mixcpt.process.devices import usable_devices

_RATE_FACTOR = 10
"""Factor from the usual rate at which a rate is far outside."""
_MAX_PASSES = 10
_FP32_PARAMETERS = 50e6
"""Size from which fp32 on a GPU costs more than it is worth."""


def check(subject: Subject) -> Iterator[Finding]:
    """Yield the problems of the optimizers, and warnings about rates, precision and passes."""
    config = subject.config
    for stage in (config.pretrain, config.align.sft, config.align.dpo):
        try:
            require_optimizer(stage.optimizer)
        except MixcptError as error:
            yield Finding.of(error)
    size = folder_size(subject.base.directory) if subject.base else ModelSize()
    on_gpu = config.runtime.devices != 0 and bool(usable_devices())
    yield from warnings(config, size.num_parameters, on_gpu=on_gpu)


def warnings(config: AdaptConfig, num_parameters: int, *, on_gpu: bool) -> Iterator[Finding]:
    """Yield warnings about rates, precision and passes of a model; its size is 0 if it is unknown."""
    if num_parameters:
        yield from _rates(config, num_parameters)
        if on_gpu:
            yield from _precision(config, num_parameters)
    yield from _passes(config)


def _rates(config: AdaptConfig, num_parameters: int) -> Iterator[Finding]:
    """Yield a warning for each stage whose rate is far from the usual one of the model's size."""
    selection = config.align.selection
    scope: ScopeKind = config.pretrain.scope.kind
    sft, dpo = (_scope_of(stage, scope) for stage in (config.align.sft, config.align.dpo))
    rates = [("pretrain", config.pretrain.optimizer, defaults.sound_rate(num_parameters, scope))]
    if selection.num_instructions:
        rates.append(("align.sft", config.align.sft.optimizer, defaults.sound_sft_rate(num_parameters, sft)))
    if selection.num_preferences:
        rates.append(("align.dpo", config.align.dpo.optimizer, defaults.sound_dpo_rate(num_parameters, dpo)))
    for section, optimizer, usual in rates:
        yield from _rate(f"{section}.optimizer.learning_rate", optimizer, usual, num_parameters)


def _scope_of(stage: object, default: ScopeKind) -> ScopeKind:
    """Return the scope of SFT or DPO; that of pre-training if the stage has no setting of its own."""
    kind = getattr(getattr(stage, "scope", None), "kind", default)
    return "lora" if kind == "lora" else "full"


def _rate(key: str, optimizer: OptimizerConfig, usual: float, num_parameters: int) -> Iterator[Finding]:
    factor = optimizer.learning_rate / usual
    far = _RATE_FACTOR * (1 - 1e-9)
    if factor < far and 1 / factor < far:
        return
    size = count_text(num_parameters)
    consequence = "training can destroy the model" if factor > 1 else "training can have no effect"
    distance = f"{factor:,.0f} times" if factor > 1 else f"1/{1 / factor:,.0f} of"
    yield Finding(
        problem=f"{key} is {optimizer.learning_rate:g}, {distance} the usual rate of a model with {size} parameters: "
        f"{consequence}",
        remedy=f"set {key} to about {usual:g}",
        is_warning=True,
    )


def _precision(config: AdaptConfig, num_parameters: int) -> Iterator[Finding]:
    """Yield a warning if a larger model computes in fp32 on a GPU."""
    if config.pretrain.precision == "fp32" and num_parameters >= _FP32_PARAMETERS:
        yield Finding(
            problem="pretrain.precision is fp32, but the training uses a GPU, which computes bf16 several times as "
            "fast and with less memory",
            remedy="set pretrain.precision to bf16; the weights and the optimiser stay in fp32",
            is_warning=True,
        )


def _passes(config: AdaptConfig) -> Iterator[Finding]:
    """Yield a warning if the training reads the documents of the domain too often."""
    sources = [source for source in config.curation.sources if source.pool == "domain"]
    files = [source for source in sources if isinstance(source, FilesSource) and not source.limit]
    weights = config.mixture.weights.model_dump()
    tokens = defaults.source_tokens(files)
    if len(files) < len(sources) or not tokens:
        return
    passes = config.mixture.total_tokens * weights["domain"] / sum(weights.values()) / tokens
    if passes > _MAX_PASSES:
        fitting = defaults.two_digits(round(config.mixture.total_tokens * _MAX_PASSES / 2 / passes))
        yield Finding(
            problem=f"mixture.total_tokens is {config.mixture.total_tokens:,}: the documents of the domain have about "
            f"{tokens:,} tokens and would be read about {passes:,.0f} times; after about ten passes a model repeats "
            "texts and forgets more",
            remedy=f"set mixture.total_tokens to about {max(fitting, 1):,}, or add documents",
            is_warning=True,
        )
