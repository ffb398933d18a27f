"""The traditional chain of a run: same data and length, other method."""

from typing import Any

import pytest

from mixcpt.config import AdaptConfig
from mixcpt.config.traditional import traditional_chain
from mixcpt.errors import ConfigError
from mixcpt.records.run import deciding_settings
from mixcpt.stages.chain import curation_job
from mixcpt.stages.registry import find_stage
from mixcpt.store.fingerprint import fingerprint

METHODS: list[dict[str, Any]] = [
    {"method": {"kind": "lssd"}},
    {"method": {"kind": "kl"}, "teacher": {"kind": "cached"}},
    {"method": {"kind": "lssd"}, "scope": {"kind": "lora", "rank": 8}, "teacher": {"kind": "adapter_off"}},
    {"method": {"kind": "cpt_replay"}, "retention": {"max_loss": 0.02, "action": "replay"}},
]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the settings by key path."""
    if not isinstance(value, dict):
        return {path: value}
    return {key: item for name, part in value.items() for key, item in flat(part, f"{path}.{name}").items()}


@pytest.mark.parametrize("pretrain", METHODS, ids=lambda pretrain: pretrain["method"]["kind"])
def test_traditional_chain_differs_in_name_method_weights_and_selection_only(pretrain: dict[str, Any]) -> None:
    config = AdaptConfig.model_validate({"name": "ours", "pretrain": pretrain, "evaluate": {"split": "report"}})
    chain = traditional_chain(config)
    before, after = flat(deciding_settings(config)), flat(deciding_settings(chain))
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    allowed = (".name", ".mixture.weights", ".pretrain.method", ".pretrain.teacher", ".pretrain.retention")
    assert all(key.startswith((*allowed, ".align.selection.strategy")) for key in changed), changed
    assert (chain.name, chain.pretrain.method.kind) == ("ours-traditional", "cpt")
    assert chain.mixture.weights.model_dump() == {"domain": 1, "instructions": 0, "preferences": 0, "general": 0}
    assert chain.align.selection.num_instructions == config.align.selection.num_instructions > 0


def test_traditional_chain_of_the_demo_equals_the_shipped_one() -> None:
    from mixcpt.config.presets import load_preset

    chain, shipped = traditional_chain(load_preset("demo-mixcpt", ".")), load_preset("demo-traditional", ".")
    assert deciding_settings(chain) | {"name": ""} == deciding_settings(shipped) | {"name": ""}


def test_both_chains_share_the_corpus() -> None:
    config = AdaptConfig()
    keys = [find_stage("curate").key_of(curation_job(run)) for run in (config, traditional_chain(config))]
    assert keys[0].fingerprint == keys[1].fingerprint


def test_line_in_the_file_is_no_part_of_a_run() -> None:
    config = AdaptConfig.model_validate({"runtime": {"with_traditional": True}})
    assert fingerprint(deciding_settings(config)) == fingerprint(deciding_settings(AdaptConfig()))
    assert traditional_chain(config).runtime.with_traditional is False


def test_traditional_chain_has_none_itself() -> None:
    weights = {"domain": 1, "instructions": 0, "preferences": 0}
    config = AdaptConfig.model_validate({"mixture": {"weights": weights}, "pretrain": {"method": {"kind": "cpt"}}})
    with pytest.raises(ConfigError, match=r"pretrain\.method of mixcpt is cpt"):
        traditional_chain(config)
