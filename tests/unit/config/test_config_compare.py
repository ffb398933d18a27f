"""Settings of a comparison: shared settings and changes are merged, and unfair comparisons are refused."""

from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import AdviseConfig, CompareConfig, load_settings
from mixcpt.config.compare import merged
from mixcpt.errors import ConfigError

PRESETS = Path(__file__).resolve().parents[3] / "deployments" / "comparisons"
PRESET = PRESETS / "closed-world.yaml"
LSSD = {"name": "lssd", "settings": {"pretrain": {"method": {"kind": "lssd", "alpha": 0.3}}}}
REPLAY = {"name": "replay", "settings": {"pretrain": {"method": {"kind": "cpt_replay"}}}}


def compare(*contenders: dict[str, Any], **changes: Any) -> CompareConfig:
    return CompareConfig.model_validate({"contenders": contenders, **changes})


def test_adapt_merges_common_settings_contender_and_value() -> None:
    config = compare(LSSD, REPLAY, settings={"mixture": {"total_tokens": 5000}, "pretrain": {"batch_rows": 16}})
    made = config.adapt(config.contenders[0], 0.002, seed=4, split="selection")
    assert (made.name, made.seed, made.data_seed, made.evaluate.split) == ("lssd-4", 4, 0, "selection")
    assert (made.pretrain.method.kind, made.pretrain.batch_rows) == ("lssd", 16)
    assert made.pretrain.optimizer.learning_rate == 0.002
    assert made.mixture.total_tokens == 5000
    longer = config.adapt(config.contenders[1], 0.002, seed=4, split="report", total_tokens=7000)
    assert (longer.mixture.total_tokens, longer.pretrain.method.kind) == (7000, "cpt_replay")


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_load_and_state_hardware_and_time(path: Path) -> None:
    text = path.read_text()
    command = "mixcpt advise" if "num_trials" in text else "mixcpt compare"
    assert f"{command} deployments/comparisons/{path.name}" in text
    assert "# Hardware: " in text and "Time: " in text
    config = load_settings(AdviseConfig, path) if "num_trials" in text else load_settings(CompareConfig, path)
    assert config.seeds


def test_merged_merges_maps_unless_the_kind_differs() -> None:
    common = {"method": {"kind": "lssd", "alpha": 0.3}, "rows": 4, "tasks": [1, 2]}
    assert merged(common, {"method": {"alpha": 0.5}})["method"] == {"kind": "lssd", "alpha": 0.5}
    assert merged(common, {"method": {"kind": "kl"}})["method"] == {"kind": "kl"}
    assert merged(common, {"tasks": [3]}) == {"method": common["method"], "rows": 4, "tasks": [3]}
    assert common["method"] == {"kind": "lssd", "alpha": 0.3}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"contenders": [LSSD, LSSD]}, "given twice: lssd"),
        ({"contenders": [{**LSSD, "values": [0.1]}]}, "a fair comparison needs the same number"),
        ({"contenders": [LSSD], "seeds": [1, 1]}, "a seed is given twice"),
        ({"contenders": [{"name": "x", "settings": {"mixture": {"totl": 1}}}]}, r"contender x: mixture\.totl"),
        ({"contenders": []}, "at least 1"),
        ({"contenders": [LSSD], "search": {"setting": "pretrain.optimizer.lr"}}, r"pretrain\.optimizer\.lr"),
    ],
)
def test_invalid_or_unfair_comparison_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        CompareConfig.model_validate(changes)


def test_load_compare_names_file_and_key(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("contenders: [{name: one}]\nseeds: many\n")
    with pytest.raises(ConfigError, match=r"grid\.yaml has 1 problem:\n  seeds: "):
        load_settings(CompareConfig, path)


def test_preset_is_valid_and_plans_a_fair_search() -> None:
    config = load_settings(CompareConfig, PRESET)
    assert {len(config.values(contender)) for contender in config.contenders} == {2}
    assert config.first.curation.sources[0].mentions == 2  # type: ignore[union-attr]
