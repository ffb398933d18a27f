"""`mixcpt plan` with a model folder that has only config.json and the tokenizer: it fits, warnings, and refusals."""

import json
import shutil
from pathlib import Path

import pytest
import typer
from transformers import AutoConfig
from typer.testing import CliRunner, Result

from mixcpt.cli.plan import plan as plan_command
from mixcpt.store.models import CLOSED_WORLD_PATH

CONFIGS = Path(__file__).parents[3] / "deployments" / "configs"
SOURCES = [
    {"kind": "closed_world", "name": name, "pool": pool}
    for name, pool in (("documents", "domain"), ("dolly", "instructions"), ("pairs", "preferences"))
]
EIGHT_BILLION = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
}
"""Shape of Llama 3.1 8B."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the configuration of eight billion parameters and a tokenizer with as many tokens as it names."""
    folder = tmp_path / "model"
    folder.mkdir()
    AutoConfig.for_model("llama", **EIGHT_BILLION).save_pretrained(folder)
    shutil.copy(CLOSED_WORLD_PATH / "tokenizer_config.json", folder)
    tokenizer = json.loads((CLOSED_WORLD_PATH / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words |= {f"unused-{index}": index for index in range(len(words), EIGHT_BILLION["vocab_size"])}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def plan(preset: str, model: Path, *arguments: str) -> Result:
    """Plan a preset with this model and invented documents, as a user without network does."""
    program = typer.Typer()
    program.command()(plan_command)
    changes = [
        f"base.model={model}",
        f"curation.sources={json.dumps(SOURCES)}",
        f"runtime.store={model.parent / 'store'}",
    ]
    sets = [part for change in changes for part in ("--set", change)]
    return CliRunner().invoke(program, [str(CONFIGS / f"{preset}.yaml"), *sets, *arguments], env={"COLUMNS": "200"})


def test_plan_of_a_folder_without_weights_says_that_every_stage_fits(model: Path) -> None:
    done = plan("one-gpu-lora", model, "--device", "h100")
    assert done.exit_code == 0, done.output
    assert "every stage fits h100" in done.stdout
    assert all(stage in done.stdout for stage in ("pretrained", "selection", "sft", "dpo"))
    assert "pretrain.precision" not in done.stderr


def test_plan_in_fp32_for_a_gpu_warns_and_names_the_stages_that_do_not_fit(model: Path) -> None:
    full = ("--set", "pretrain.precision=fp32", "--set", "align.sft.scope.kind=full")
    done = plan("one-gpu-lora", model, "--device", "h100", *full)
    assert done.exit_code == 0, done.output
    assert "every stage fits" not in done.stdout
    assert "pretrain.precision is fp32, but the training uses a GPU" in " ".join(done.stderr.split())
    assert "warning: sft: needs" in done.stdout


def test_plan_with_a_dry_run_refuses_a_folder_without_weights(model: Path) -> None:
    done = plan("one-gpu-lora", model, "--dry-run")
    assert done.exit_code == 2
    assert "has no weights" in done.stderr
    assert "--no-dry-run" in done.stderr
