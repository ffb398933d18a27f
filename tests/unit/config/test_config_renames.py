"""Renamed and removed settings: files get one clear error, old records load, fingerprints do not change."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mixcpt.config import (
    AdaptConfig,
    AdviseConfig,
    CompareConfig,
    PretrainConfig,
    StreamsMethod,
    load_any,
    load_config,
    read_stored,
)
from mixcpt.config.base import Settings
from mixcpt.config.renames import REMOVED_KEYS, RENAMED_KEYS
from mixcpt.errors import ConfigError
from mixcpt.store.fingerprint import fingerprint

OLD_PROMISE: dict[str, Any] = {"pretrain": {"retention": {"max_loss": 0.02, "act": "stop", "sure": 0.9}}}
OLD_STREAM = {"name": "documents", "reads": "domain", "divergence": "forward", "beta": 0.5}
OLD_STREAMS = {"kind": "streams", "of": [{"reads": "mixture"}, OLD_STREAM]}
OLD_COMPARISON: dict[str, Any] = {
    "settings": {"evaluate": {"split": "report"}, **OLD_PROMISE},
    "contenders": [
        {
            "name": "streams",
            "settings": {"pretrain": {"method": OLD_STREAMS}},
        },
        {"name": "stops", "settings": {"pretrain": {"method": {"kind": "lssd"}, "retention": {"act": "alpha"}}}},
    ],
    "claims": [{"says": "keeps more", "contender": "stops", "task": "general_memory"}],
}
PLAIN_COMPARISON = OLD_COMPARISON | {"contenders": OLD_COMPARISON["contenders"][1:]}
STREAMS = PretrainConfig(method=StreamsMethod())


def all_settings(parent: type[Settings] = Settings) -> Iterator[type[Settings]]:
    for child in parent.__subclasses__():
        yield child
        yield from all_settings(child)


def test_tables_name_settings_that_exist_under_the_new_key_only() -> None:
    fields = {model.__name__: set(model.model_fields) for model in all_settings()}
    for name, keys in RENAMED_KEYS.items():
        assert set(keys.values()) <= fields[name]
        assert not set(keys) & fields[name]
    for name, removed in REMOVED_KEYS.items():
        assert not set(removed) & fields[name]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pretrain: {retention: {act: stop}}", "pretrain.retention: the key act was renamed to action"),
        (
            "pretrain: {retention: {act: stop, sure: 0.9}}",
            "pretrain.retention: the key act was renamed to action; and the key sure was renamed to confidence",
        ),
        (
            "pretrain: {method: {kind: streams, of: [{divergence: reverse}]}}",
            "pretrain.method.of[0]: the key divergence was removed: forward KL is the only divergence; delete it",
        ),
        (
            "contenders: [{name: a}]\nclaims: [{says: better, contender: a, task: domain_questions}]",
            "claims[0]: the key says was renamed to statement",
        ),
        (
            "contenders: [{name: a, settings: {pretrain: {retention: {act: stop}}}}]",
            "(whole file): contender a: pretrain.retention: the key act was renamed to action",
        ),
        (
            "adapt: {pretrain: {retention: {sure: 0.9}}}",
            "adapt.pretrain.retention: the key sure was renamed to confidence",
        ),
    ],
)
def test_file_with_an_old_key_gets_one_error_with_file_key_and_new_name(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_any(path)
    assert str(caught.value).splitlines()[:2] == [f"{path} has 1 problem:", f"  {problem}"]


def test_override_with_an_old_key_names_the_new_one() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["pretrain.retention.act=stop"])
    assert str(caught.value).splitlines()[:2] == [
        "the embedded default with --set pretrain.retention.act=stop has 1 problem:",
        "  pretrain.retention: the key act was renamed to action",
    ]


def test_stored_run_with_old_keys_loads() -> None:
    old = {"evaluate": {"split": "report"}, **OLD_PROMISE}
    promise = {"max_loss": 0.02, "action": "stop", "confidence": 0.9}
    new = {"evaluate": {"split": "report"}, "pretrain": {"retention": promise}}
    assert read_stored(AdaptConfig, old) == AdaptConfig.model_validate(new)


def test_stored_comparison_with_old_keys_at_every_depth_loads() -> None:
    config = read_stored(CompareConfig, OLD_COMPARISON)
    assert config.claims[0].statement == "keeps more"
    assert config.settings["pretrain"]["retention"] == {"max_loss": 0.02, "action": "stop", "confidence": 0.9}
    streams, stops = (config.adapt(contender, 0.001, seed=0, split="report") for contender in config.contenders)
    assert streams.pretrain.retention.action == "stop"
    assert stops.pretrain.retention.action == "alpha"


def test_stored_search_with_old_keys_loads() -> None:
    assert read_stored(AdviseConfig, {"settings": OLD_PROMISE}).given.pretrain.retention.confidence == 0.9


@pytest.mark.parametrize(
    "config", [AdaptConfig(), PretrainConfig(method={"kind": "streams"})], ids=["default", "streams"]
)  # type: ignore[arg-type]
def test_identity_reads_back_into_equal_settings(config: Settings) -> None:
    assert read_stored(type(config), json.loads(json.dumps(config.identity()))) == config
    assert read_stored(type(config), config.model_dump(mode="json")) == config


@pytest.mark.parametrize("value", ["reverse", "jsd"])
def test_stored_divergence_other_than_forward_is_refused(value: str) -> None:
    stream = OLD_STREAM | {"divergence": value, "beta": 0.3}
    with pytest.raises(ConfigError, match=f"divergence: {value}, which is no longer supported: forward KL is the only"):
        read_stored(PretrainConfig, {"method": {"kind": "streams", "of": [stream]}})


def test_stored_record_is_still_checked() -> None:
    with pytest.raises(ValidationError, match="colour"):
        read_stored(AdaptConfig, {"colour": "blue"})


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AdaptConfig(), "fbbd7c8496a2dd97"),
        (PretrainConfig(), "8b6875a25993742c"),
        (read_stored(PretrainConfig, OLD_PROMISE["pretrain"]), "df4c7534c1e901e1"),
        (STREAMS, "18458a3069e69517"),
        (
            read_stored(CompareConfig, OLD_COMPARISON | {"contenders": OLD_COMPARISON["contenders"][1:]}),
            "dbb7d27ae31ee3b0",
        ),
        (read_stored(AdviseConfig, {"settings": OLD_PROMISE}), "97235462c163e5ce"),
    ],
    ids=["run", "pretrain", "promise", "streams", "comparison", "search"],
)
def test_fingerprint_is_that_before_the_renaming(config: Settings, expected: str) -> None:
    assert fingerprint(config)[:16] == expected


def test_fingerprint_of_nested_settings_uses_their_identity() -> None:
    config = PretrainConfig()
    assert fingerprint({"stage": "pretrain", "pretrain": config}) == fingerprint(
        {"stage": "pretrain", "pretrain": config.identity()}
    )
