"""Settings written as YAML load back into equal settings and have comments."""

from pathlib import Path

import pytest
import yaml

from mixcpt.config import AdaptConfig, FilesSource, load_config
from mixcpt.config.writing import to_yaml

PRESETS = sorted((Path(__file__).parents[3] / "deployments" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("only_set", [False, True])
def test_to_yaml_loads_back_into_equal_settings(preset: Path, only_set: bool) -> None:
    config = load_config(preset)
    assert AdaptConfig.model_validate(yaml.safe_load(to_yaml(config, only_set=only_set))) == config


def test_to_yaml_writes_the_help_text_above_its_field() -> None:
    lines = to_yaml(AdaptConfig()).splitlines()
    index = lines.index("    alpha: 0.5")
    assert lines[index - 1].strip().startswith("# Weight of next-token prediction")


def test_to_yaml_quotes_ambiguous_strings() -> None:
    source = FilesSource(name="a", pool="domain", paths=("yes", "1", "a: b # c", "snow é\n"))
    assert yaml.safe_load(to_yaml(source))["paths"] == ["yes", "1", "a: b # c", "snow é\n"]


def test_to_yaml_only_set_leaves_defaults_out() -> None:
    assert to_yaml(AdaptConfig(seed=4), only_set=True, comments=False) == "seed: 4\n"
