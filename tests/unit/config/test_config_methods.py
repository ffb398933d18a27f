"""Named methods are the presets of docs/algorithms.md#one-loss; invalid combinations are refused with a remedy."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mixcpt.config import AdaptConfig, Method, PretrainConfig, StreamConfig, StreamsMethod, load_config
from mixcpt.errors import ConfigError

KINDS = (
    "cpt", "cpt_replay", "kl", "lssd", "none", "mask", "margin", "disc", "document_dcd", "talr", "reading", "pit",
    "streams",
)  # fmt: skip
ADAPTER: TypeAdapter[Any] = TypeAdapter(Method)


def streams(kind: str, **settings: Any) -> tuple[StreamConfig, ...]:
    return ADAPTER.validate_python({"kind": kind, **settings}).streams()  # type: ignore[no-any-return]


def terms(stream: StreamConfig) -> tuple[Any, ...]:
    return stream.reads, stream.view, stream.form, stream.ce_weight, stream.kl_weight, stream.transform


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("cpt", {}, [("domain", "text", "text", 1, 0, "none")]),
        ("cpt_replay", {}, [("mixture", "text", "text", 1, 0, "none")]),
        ("kl", {}, [("mixture", "text", "text", 1, 0.1, "none")]),
        ("lssd", {"alpha": 0.3}, [("mixture", "text", "text", 0.3, 0.7, "swap")]),
        ("none", {}, [("mixture", "text", "text", 0.5, 0.5, "none")]),
        ("mask", {}, [("mixture", "text", "text", 0.5, 0.5, "mask")]),
        ("margin", {}, [("mixture", "text", "text", 0, 1, "margin")]),
        ("margin", {"correction": "lead"}, [("mixture", "text", "text", 0, 1, "threshold")]),
        ("disc", {}, [("domain", "split_contexts", "text", 0, 1, "none")]),
        ("document_dcd", {}, [("domain", "halves", "text", 0, 1, "none")]),
        ("talr", {}, [("mixture", "text", "text", 1, 0, "none")]),
        ("reading", {}, [("mixture", "text", "reading", 1, 0, "none")]),
        (
            "pit",
            {},
            [
                ("mixture", "text", "questions_after", 1, 0, "none"),
                ("mixture", "text", "questions_before", 1, 0, "none"),
            ],
        ),
        (
            "streams",
            {},
            [("mixture", "text", "text", 0.5, 0.5, "swap"), ("domain", "split_contexts", "text", 0, 1, "none")],
        ),
    ],
)  # fmt: skip
def test_method_is_the_preset_of_its_row(kind: str, settings: dict[str, Any], expected: list[Any]) -> None:
    assert [terms(stream) for stream in streams(kind, **settings)] == expected


def test_temperatures_and_phases_of_the_presets() -> None:
    assert streams("disc")[0].temperature == 2.0 and streams("disc")[0].splits == 5
    assert streams("document_dcd")[0].temperature == 1.0
    assert streams("talr")[0].talr_floor == 0.01
    assert [stream.phase for stream in streams("pit")] == [0, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_round_trips_through_its_dump(kind: str) -> None:
    method = ADAPTER.validate_python({"kind": kind})
    assert ADAPTER.validate_json(method.model_dump_json()) == method
    assert method.streams() == ADAPTER.validate_json(method.model_dump_json()).streams()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": {"kind": "disc"}, "teacher": {"kind": "cached"}}, r"view split_contexts.*set teacher to frozen"),
        ({"method": {"kind": "lssd", "temperature": 2}, "teacher": {"kind": "cached"}}, "temperature 2"),
        ({"method": {"kind": "lssd"}, "teacher": {"kind": "adapter_off"}}, "set scope to lora"),
        ({"method": {"kind": "streams"}, "batch_rows": 1, "micro_batch_rows": 1}, "every step reads 2 streams"),
    ],
)
def test_invalid_combination_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PretrainConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"view": "halves"}, "set reads to domain"),
        ({"view": "halves", "reads": "domain", "form": "reading"}, "set form to text"),
        ({"view": "halves", "reads": "domain", "ce_weight": 1, "kl_weight": 0}, "needs a teacher"),
        ({"ce_weight": 0, "kl_weight": 0}, "nothing to learn"),
        ({"talr_floor": 0.01}, "set kl_weight to 0"),
        ({"view": "halves", "reads": "domain", "parity": True}, "parity reproduces the published code"),
        (
            {"view": "split_contexts", "reads": "domain", "parity": True, "student_context": "title"},
            "student_context to none",
        ),
    ],
)
def test_invalid_stream_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StreamConfig(**settings)


def test_streams_with_equal_names_are_refused() -> None:
    with pytest.raises(ValidationError, match="stream names must differ"):
        StreamsMethod(of=(StreamConfig(), StreamConfig()))


def test_unused_cached_teacher_is_accepted() -> None:
    assert not PretrainConfig(method={"kind": "cpt"}, teacher={"kind": "cached"}).uses_cache  # type: ignore[arg-type]


def test_method_on_documents_needs_domain_weights_only() -> None:
    with pytest.raises(ConfigError, match=r"disc reads only domain documents.*or use streams"):
        load_config(overrides=["pretrain.method.kind=disc"])
    weights = [f"mixture.weights.{pool}=0" for pool in ("instructions", "preferences")]
    assert load_config(overrides=["pretrain.method.kind=disc", *weights]).pretrain.method.kind == "disc"
    assert isinstance(load_config(overrides=["pretrain.method.kind=streams"]), AdaptConfig)
