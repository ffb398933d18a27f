"""`mixcpt plan` without a dry run: every preset, devices that are too small, JSON, and the published plan."""

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from rich.console import Console
from typer.testing import CliRunner

from mixcpt.cli.app import app
from mixcpt.cli.plan import plan as plan_command
from mixcpt.config import load_config
from mixcpt.errors import MixcptError
from mixcpt.planning import stage
from mixcpt.planning.devices import DEVICES, named_device
from mixcpt.planning.load import count_load
from mixcpt.records.plan import Device, Plan, load_plan
from mixcpt.store.artifacts import ArtifactStore
from mixcpt.store.models import resolve_model
from tests.unit.tokenizers_of_every_kind import write_tokenizer

ROOT = Path(__file__).parents[3]
PRESETS = sorted((ROOT / "deployments" / "configs").glob("*.yaml"))
DEMO = ROOT / "deployments" / "configs" / "demo-mixcpt.yaml"


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setenv("NO_COLOR", "1")


def plan(*arguments: object) -> Result:
    program = typer.Typer()
    program.command()(plan_command)
    return CliRunner().invoke(program, [str(argument) for argument in arguments])


def planned(path: Path, store: Path, device: Device, *overrides: str) -> Plan:
    config = load_config(path, [*overrides, f"runtime.store={json.dumps(str(store))}"])
    return stage.estimated_plan(count_load(config, resolve_model(config.base), ArtifactStore(store)), device)


def device(gib: float) -> Device:
    return Device(
        name="small",
        count=1,
        memory_bytes=round(gib * 2**30),
        peak_flops=1e12,
        fp32_flops=1e12,
        bytes_per_second=1e11,
        utilisation=0.5,
        is_here=False,
    )


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_plan_of_every_preset_has_all_stages_and_finite_figures(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(path)
    try:
        resolve_model(config.base)
        estimate = planned(path, tmp_path, named_device("h100", config.runtime, config.pretrain.precision))
    except MixcptError as error:
        pytest.skip(f"its model or data is not available: {error.problem.splitlines()[0]}")
    names = [stage_plan.stage for stage_plan in estimate.stages]
    assert names[:3] == ["corpus", "mixture", "pretrained"] or "teacher" in names
    assert sum(source.tokens for source in estimate.sources) == config.mixture.total_tokens
    pretrained = estimate.by_stage["pretrained"]
    assert pretrained.steps == -(-pretrained.rows // config.pretrain.batch_rows)
    assert 0 < estimate.seconds < 1e7 and estimate.flops > 0
    assert all(memory.total > 0 for memory in estimate.memory)


def test_plan_json_parses_and_sums(tmp_path: Path) -> None:
    done = plan(
        DEMO, "--device", "h100", "--price-per-hour", "3.6", "--json", "--set", "runtime.num_processes=8",
        "--set", "pretrain.micro_batch_rows=1", "--set", f"runtime.store={tmp_path}",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    estimate = json.loads(done.stdout)
    assert estimate["basis"] == "analytic"
    assert sum(source["tokens"] for source in estimate["sources"]) == 900_000
    stages = {entry["stage"]: entry for entry in estimate["stages"]}
    assert stages["pretrained"]["student_flops"] == 6 * estimate["num_parameters"] * stages["pretrained"]["tokens"]
    assert stages["pretrained"]["teacher_flops"] == 2 * estimate["num_parameters"] * stages["pretrained"]["tokens"]
    assert estimate["total"]["seconds"] == pytest.approx(
        estimate["start_seconds"] + sum(entry["seconds"] for entry in estimate["stages"])
    )
    assert estimate["total"]["cost"] == pytest.approx(3.6 * 8 * estimate["total"]["seconds"] / 3600)
    (kept,) = ArtifactStore(tmp_path).list("plan")
    assert load_plan(kept).to_json() == estimate


def test_plan_table_shows_tokens_memory_and_what_is_assumed(tmp_path: Path) -> None:
    done = plan(DEMO, "--device", "a100-80", "--set", f"runtime.store={tmp_path}")
    assert done.exit_code == 0, done.output
    for shown in ("world-domain", "630,000", "pretrained", "optimiser", "40.0", "a100-80"):
        assert shown in done.stdout
    assert "stored in" in done.stderr


def test_plan_fits_a_terminal_of_80_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcpt.cli.plan.out", Console(width=80))
    done = plan(DEMO, "--device", "a100-80", "--set", f"runtime.store={tmp_path}")
    assert done.exit_code == 0, done.output
    tables = done.stdout[: done.stdout.index("a100-80, ")]
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables


def test_plan_refuses_text_that_the_tokenizer_loses(tmp_path: Path) -> None:
    (tmp_path / "docs.md").write_text("глава дома\n\n" * 200)
    source = {"kind": "files", "name": "domain", "pool": "domain", "paths": [str(tmp_path / "docs.md")]}
    model = write_tokenizer(tmp_path / "model", "metaspace", has_bos=True)
    done = plan(DEMO, "--device", "h100", "--set", f"runtime.store={tmp_path}", "--set", f"base.model={model.path}",
                "--set", f"curation.sources=[{json.dumps(source)}]",
                "--set", "mixture.weights={domain: 1, instructions: 0, preferences: 0}",
                "--set", "pretrain.method={kind: cpt}",
                "--set", "align.selection={num_instructions: 0, num_preferences: 0}")  # fmt: skip
    assert done.exit_code == 2, done.output
    assert "curation.sources[0]: the tokenizer of base.model cannot represent" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"), [(("--device", "abacus"), "h100"), (("--device", "h100", "--dry-run"), "one of the two")]
)
def test_plan_with_an_unknown_or_a_second_device_is_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    done = plan(DEMO, *arguments, "--set", f"runtime.store={tmp_path}")
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output


def test_plan_is_a_command_of_the_program() -> None:
    assert plan_command in [command.callback for command in app.registered_commands]


def test_plan_help_says_where_the_figures_come_from() -> None:
    shown = plan("--help").stdout
    assert all(word in shown for word in ("dry run", "sample", "h100", "extrapolated", "--price-per-hour"))


def test_plan_on_a_device_that_is_too_small_names_settings_that_suffice(tmp_path: Path) -> None:
    wide = ("pretrain.batch_rows=64", "pretrain.micro_batch_rows=64")
    needed = planned(DEMO, tmp_path, device(80.0), *wide)
    assert not any("pretrained" in warning for warning in needed.warnings)
    (warning,) = [text for text in planned(DEMO, tmp_path, device(1.3), *wide).warnings if "pretrained" in text]
    assert "activations" in warning
    assert "Enough by itself" in warning
    assert "pretrain.micro_batch_rows=" in warning and "pretrain.gradient_checkpointing=true" in warning


def test_plan_on_a_device_far_too_small_says_that_nothing_is_enough(tmp_path: Path) -> None:
    estimate = planned(DEMO, tmp_path, device(0.85), "pretrain.batch_rows=64", "pretrain.micro_batch_rows=64")
    assert any("No single setting is enough" in warning for warning in estimate.warnings)


def test_plan_suggests_only_what_goes_with_the_other_settings(tmp_path: Path) -> None:
    disc = ('pretrain.method={"kind": "disc"}', 'mixture.weights={"domain": 1, "instructions": 0, "preferences": 0}')
    wide = ("pretrain.batch_rows=64", "pretrain.micro_batch_rows=64")
    estimate = " ".join(planned(DEMO, tmp_path, device(0.9), *disc, *wide).warnings)
    assert "pretrained" in estimate
    assert "cached" not in estimate  # a cached teacher cannot read another view


def test_plan_of_a_named_device_is_not_held_against_a_run_here(tmp_path: Path) -> None:
    config = load_config(DEMO)
    assert not any(named_device(name, config.runtime, "bf16").is_here for name in DEVICES)
    assert named_device("H100", config.runtime, "bf16").peak_flops == 989e12
