"""The traditional chain of a run: next-token prediction on the documents, then SFT, then DPO."""

from typing import Any

from mixcpt.config.adapt import AdaptConfig
from mixcpt.config.compare import merged
from mixcpt.config.pretrain import RetentionConfig
from mixcpt.errors import ConfigError

SUFFIX = "-traditional"
"""End of the name of a traditional chain; the rest is the name of its run."""


def traditional_chain(config: AdaptConfig) -> AdaptConfig:
    """Return the traditional chain with the same data, base, tokens, learning rates, scope and questions.

    Three things differ: every training token comes from the documents, the method is plain next-token prediction
    without a teacher or a retention promise, and the alignment samples are drawn at random. The numbers of samples
    are the same.

    Raises:
        ConfigError: If the run is a traditional chain itself.
    """
    if config.pretrain.method.kind == "cpt":
        problem = f"pretrain.method of {config.name} is cpt: the run is the traditional chain itself"
        raise ConfigError(problem, "choose another method, such as lssd or kl, or leave out the traditional chain")
    general = {pool: 0.0 for pool in config.mixture.weights.model_dump() if pool != "domain"}
    changes: dict[str, Any] = {
        "name": f"{config.name}{SUFFIX}",
        "mixture": {"weights": {"domain": 1.0, **general}},
        "pretrain": {
            "method": {"kind": "cpt"},
            "teacher": {"kind": "frozen"},
            "retention": RetentionConfig().model_dump(mode="json"),
        },
        "align": {"selection": {"strategy": "random"}},
        "runtime": {"with_traditional": False},
    }
    return AdaptConfig.model_validate(merged(config.model_dump(mode="json"), changes))
