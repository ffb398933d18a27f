"""Warnings about rates, precision and passes for the size of a model, and the defaults that avoid them."""

from pathlib import Path

import pytest

from mixcpt.checks import rates
from mixcpt.checks.defaults import Machine, choose, find_machine, sound_dpo_rate, sound_rate, sound_sft_rate
from mixcpt.checks.findings import Finding, Subject
from mixcpt.checks.model_size import ModelSize, folder_size, model_size
from mixcpt.config import AdaptConfig, BaseModelConfig, load_config
from mixcpt.errors import ConfigError
from mixcpt.store.models import CLOSED_WORLD_PATH, resolve_model

CPU = Machine(name="CPU", memory_bytes=16 * 2**30, is_gpu=False)
GPU = Machine(name="GPU", memory_bytes=80 * 2**30, is_gpu=True)


def warnings_of(*overrides: str) -> list[Finding]:
    config = load_config(None, overrides)
    findings = list(rates.check(Subject(config, resolve_model(config.base))))
    assert all(finding.is_warning for finding in findings)
    return findings


def test_default_settings_have_no_warning() -> None:
    assert warnings_of() == []


@pytest.mark.parametrize("key", ["pretrain", "align.sft", "align.dpo"])
@pytest.mark.parametrize(("factor", "is_far"), [(10, True), (9, False), (0.12, False), (0.1, True), (1e6, True)])
def test_rate_far_from_the_usual_one_is_warned_about(key: str, factor: float, is_far: bool) -> None:
    usual = {"pretrain": 1e-3, "align.sft": 1e-4, "align.dpo": 5e-6}[key]
    found = warnings_of(f"{key}.optimizer.learning_rate={usual * factor:.12f}")
    assert [finding.problem.partition(" is ")[0] for finding in found] == [f"{key}.optimizer.learning_rate"] * is_far
    assert all(f"{usual:g}" in finding.remedy for finding in found)


def test_rate_of_a_skipped_stage_is_not_warned_about() -> None:
    skipped = ("align.selection.num_preferences=0", "align.dpo.optimizer.learning_rate=1")
    assert warnings_of(*skipped) == []


@pytest.mark.parametrize(("tokens", "is_far"), [(90_000, False), (220_000, True)])
def test_more_than_ten_passes_over_the_documents_are_warned_about(tmp_path: Path, tokens: int, is_far: bool) -> None:
    documents = tmp_path / "documents.txt"
    documents.write_text("word" * 5_000)
    config = AdaptConfig.model_validate(
        {
            "curation": {"sources": [{"kind": "files", "name": "d", "pool": "domain", "paths": [str(documents)]}]},
            "mixture": {"weights": {"domain": 1, "instructions": 0, "preferences": 0}, "total_tokens": tokens // 2},
            "pretrain": {"method": {"kind": "cpt"}},
            "align": {"selection": {"num_instructions": 0, "num_preferences": 0}},
        }
    )
    found = list(rates.check(Subject(config, None)))
    assert ["mixture.total_tokens" in finding.problem for finding in found] == [True] * is_far


def test_fp32_on_a_gpu_is_warned_about_for_larger_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "usable_devices", lambda: ("GPU-0",))
    assert warnings_of() == []
    monkeypatch.setattr(rates, "folder_size", lambda folder: ModelSize(num_parameters=135_000_000))
    found = [finding.problem.partition(" is ")[0] for finding in warnings_of("pretrain.optimizer.learning_rate=1e-4")]
    assert found == ["pretrain.precision"]
    assert warnings_of("pretrain.optimizer.learning_rate=1e-4", "runtime.devices=0") == []


def test_size_of_a_folder_counts_the_elements_of_all_weights() -> None:
    size = folder_size(CLOSED_WORLD_PATH)
    assert size == model_size(BaseModelConfig())
    assert 2e6 < size.num_parameters < 2.3e6
    assert size.has_chat_template is not None


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("meta-llama/Llama-3.1-8B", 8e9), ("Qwen/Qwen2.5-0.5B-Instruct", 5e8), ("o/SmolLM2-135M", 1.35e8), ("o/gpt2", 0)],
)
def test_size_of_a_hub_model_is_read_from_its_name(name: str, parameters: float) -> None:
    assert model_size(BaseModelConfig(model=name)).num_parameters == parameters


@pytest.mark.parametrize("damage", [b"", b"\xff" * 7, b"\xff" * 40, (4).to_bytes(8, "little") + b"[1]]"])
def test_size_of_damaged_weights_is_unknown(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(damage)
    assert folder_size(tmp_path).num_parameters == 0


@pytest.mark.parametrize(
    ("parameters", "full", "lora"),
    [(656_000, 1e-3, 1e-3), (100_000_000, 1e-4, 5e-4), (1_000_000_000, 3e-5, 2e-4), (8_000_000_000, 1e-5, 2e-4)],
)
def test_usual_rates_follow_the_size(parameters: int, full: float, lora: float) -> None:
    assert (sound_rate(parameters, "full"), sound_rate(parameters, "lora")) == (full, lora)
    assert sound_dpo_rate(parameters, "full") < sound_sft_rate(parameters, "full") <= 1e-4


@pytest.mark.parametrize("parameters", [0, 656_000, 135_000_000, 1_500_000_000, 8_000_000_000, 70_000_000_000])
@pytest.mark.parametrize("machine", [CPU, GPU], ids=str)
@pytest.mark.parametrize("tokens", [10, 100_000, 30_000_000])
def test_chosen_settings_are_valid_and_have_reasons(parameters: int, machine: Machine, tokens: int) -> None:
    size = ModelSize(num_parameters=parameters, context_tokens=0)
    chosen = choose(size, machine, domain_tokens=tokens, domain_share=0.5)
    assert all(choice.reason for choice in chosen.values())
    scope = chosen.pop("pretrain.scope").value
    values = {key: choice.value for key, choice in chosen.items()}
    assert scope == ("full" if 20 * (parameters or 1e9) <= 0.7 * machine.memory_bytes else "lora")
    assert values["pretrain.precision"] == ("bf16" if machine.is_gpu else "fp32")
    assert values["pretrain.batch_rows"] % values["pretrain.micro_batch_rows"] == 0
    assert values["mixture.total_tokens"] * 0.5 / tokens <= 10 or values["mixture.total_tokens"] < 5_000
    load_config(None, [f"{key}={value}" for key, value in values.items()])


def test_rows_never_exceed_the_context() -> None:
    chosen = choose(ModelSize(context_tokens=128), GPU, domain_tokens=1000, domain_share=0.5)
    assert chosen["mixture.row_tokens"].value == 128


def test_unknown_device_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="--device 'h999' is unknown"):
        find_machine("h999")
    assert find_machine("H100").memory_bytes == 80 * 2**30
    assert not find_machine("cpu").is_gpu
