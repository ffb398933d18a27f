"""Settings: strict, explained, all problems reported together with their key paths."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mixcpt.config import AdaptConfig, CompareConfig, CptMethod, load_any, load_config
from mixcpt.errors import ConfigError
from mixcpt.store.fingerprint import fingerprint


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def settings_classes(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield every settings class in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        for field in annotation.model_fields.values():
            yield from settings_classes(field.annotation)
    for part in getattr(annotation, "__args__", ()):
        yield from settings_classes(part)


def test_load_config_without_a_file_is_the_embedded_default() -> None:
    assert load_config() == AdaptConfig()


def test_load_config_reads_yaml_and_keeps_the_other_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "seed: 3\npretrain:\n  method: {kind: kl, kl_weight: 0.2}\n"))
    assert config.seed == 3
    assert config.pretrain.method.model_dump() == {"kind": "kl", "kl_weight": 0.2, "temperature": 1.0}
    assert config.mixture == AdaptConfig().mixture


def test_load_config_round_trips_its_own_dump(tmp_path: Path) -> None:
    import yaml

    dumped = yaml.safe_dump(AdaptConfig(seed=7).model_dump(mode="json"))
    assert load_config(write(tmp_path, dumped)) == AdaptConfig(seed=7)


def test_override_reaches_into_a_default_choice() -> None:
    assert load_config(overrides=["pretrain.method.alpha=0.3"]).pretrain.method.alpha == 0.3  # type: ignore[union-attr]


def test_override_of_kind_resets_the_section() -> None:
    weights = [f"mixture.weights.{pool}=0" for pool in ("instructions", "preferences")]
    config = load_config(overrides=["pretrain.method.kind=cpt", *weights])
    assert config.pretrain.method == CptMethod()


def test_override_steps_into_a_list_by_number() -> None:
    assert load_config(overrides=["curation.sources.0.limit=5"]).curation.sources[0].limit == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "KEY.PATH=VALUE"),
        ("curation.sources.9.limit=5", "not an index of a list with 3"),
        ("seed.deep=1", "plain value 0 has no key 'deep'"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_malformed_override_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


def test_load_config_reports_every_problem_with_file_and_key_path(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
        seed: many
        colour: blue
        curation:
          sources:
            - {kind: files, name: a, pool: domain, paths: [x.txt], fields: {txt: body}}
        mixture:
          weights: {domain: -1}
        pretrain:
          method: {kind: lssd, alpha: 2}
        """,
    )
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path} has 5 problems:"
    for expected in (
        "  seed: Input should be a valid integer, unable to parse string as an integer (found 'many')",
        "  colour: unknown key",
        "  curation.sources[0].fields.txt: unknown key",
        "  mixture.weights.domain: Input should be greater than or equal to 0 (found -1)",
        "  pretrain.method.alpha: Input should be less than or equal to 1 (found 2)",
    ):
        assert expected in lines


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "contains a list"), ("pretrain: {method: {alpha: 1}}", "pretrain.method")],
)
def test_load_config_refuses_files_without_settings(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_load_config_refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mixture.weights.general=0.5"], "no source has pool: general"),
        (["pretrain.method.kind=cpt"], "use cpt_replay"),
        (["mixture.weights.domain=0"], "nothing new to learn"),
        (["pretrain.micro_batch_rows=3"], "multiple"),
        (["curation.heldout_fraction=0"], "held-out domain documents"),
        (["mixture.weights.general=1", "pretrain.micro_batch_rows=3"], "no source has pool: general.*; and .*multiple"),
        (["evaluate.headline_domain=none"], "none of the tasks"),
        (["curation.sources.1.name=world-domain"], "given twice: world-domain"),
    ],
)
def test_contradictory_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=overrides)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        AdaptConfig().seed = 1  # type: ignore[misc]


def test_every_setting_is_explained() -> None:
    for model in set(settings_classes(AdaptConfig)):
        unexplained = [name for name, field in model.model_fields.items() if not field.description]
        assert unexplained == [], model.__name__


def test_config_imports_without_torch() -> None:
    code = "import sys, mixcpt.config; print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("folder", "kinds"),
    [
        ("configs", {"AdaptConfig"}),
        ("comparisons", {"CompareConfig", "AdviseConfig"}),
        ("rounds", {"ReadaptConfig", "CorpusConfig"}),
    ],
)
def test_load_any_recognises_the_kind_of_file(folder: str, kinds: set[str]) -> None:
    paths = (Path(__file__).parents[3] / "deployments" / folder).glob("*.yaml")
    assert {type(load_any(path)).__name__ for path in paths} == kinds


def test_load_any_names_the_bad_field_of_the_right_kind(tmp_path: Path) -> None:
    path = write(tmp_path, "source: {kind: closed_world, name: w, pool: general}\n")
    with pytest.raises(ConfigError, match="set pool to domain"):
        load_any(path)


@pytest.mark.parametrize("also", [["tensorboard"], ["wandb", "tensorboard"]])
def test_tracking_changes_no_fingerprint(also: list[str]) -> None:
    config = AdaptConfig.model_validate({"tracking": {"also": also}})
    assert "tracking" not in config.identity()
    assert fingerprint(config) == fingerprint(AdaptConfig())
    shared: dict[str, Any] = {"contenders": [{"name": "a"}]}
    compared = CompareConfig.model_validate({**shared, "settings": {"tracking": {"also": also}}})
    assert fingerprint(compared) == fingerprint(CompareConfig.model_validate(shared))


@pytest.mark.parametrize("also", [["neptune"], ["wandb", "wandb"]])
def test_tracking_refuses_unknown_and_repeated_tools(also: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"tracking\.also"):
        AdaptConfig.model_validate({"tracking": {"also": also}})
