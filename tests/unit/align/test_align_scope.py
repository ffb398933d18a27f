"""SFT and DPO with adapters, and by several processes."""

import json
import math
import os
import socket
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mixcpt.align.finetune import finetune
from mixcpt.config import DpoConfig, LoraScopeConfig, OptimizerConfig, SftConfig
from mixcpt.errors import ConfigError, MixcptError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, StageKey
from mixcpt.store.models import ModelRef, load_model
from mixcpt.store.spool import NullTracker

FAST = OptimizerConfig(learning_rate=5e-3)
LORA = LoraScopeConfig(rank=4, alpha=8)
PAIRS = [
    (f"who {verb} {thing} ?", f"{name} {verb} it .", f"the {thing}")
    for (name, thing), verb in product((("Alda", "gold"), ("Boren", "iron")), ("keeps", "likes", "visits", "has"))
]
CONFIGS: dict[str, SftConfig | DpoConfig] = {
    "sft": SftConfig(optimizer=FAST, epochs=2, batch_size=4),
    "dpo": DpoConfig(optimizer=FAST, epochs=2, batch_size=4),
}
SCRIPT = """
import json, sys
from types import SimpleNamespace

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from mixcpt.align import finetune as stage
from mixcpt.config import DpoConfig, SftConfig
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from mixcpt.train import sharding

batch = json.loads(open(sys.argv[1]).read())
gathered = []
if batch["sharding"] != "none":
    # accelerate shards only on accelerators: the processes on this CPU are declared to be some
    initialise = AcceleratorState.__init__

    def declared(self, *arguments, **options):
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        initialise(self, *arguments, **options)

    AcceleratorState.__init__ = declared
    sharding.torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True), device=torch.device)
    gather = stage.gathered_state
    stage.gathered_state = lambda *arguments: gathered.append(gather(*arguments)) or gathered[-1]
for job in batch["jobs"]:
    config = (SftConfig if job["stage"] == "sft" else DpoConfig).model_validate(job["config"])
    stage.finetune(
        config, ArtifactRef.from_json(batch["selection"]), ModelRef.from_json(batch["model"]), "",
        seed=0, store=ArtifactStore(batch["store"]), tracker=NullTracker(), sharding=batch["sharding"],
    )
assert batch["sharding"] == "none" or all(state is not None for state in gathered)
"""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def selection(store: ArtifactStore) -> ArtifactRef:
    frame = pd.DataFrame(PAIRS, columns=["prompt", "chosen", "rejected"], dtype=str)

    def build(folder: Path) -> dict[str, Any]:
        frame.rename(columns={"chosen": "response"}).to_parquet(folder / "sft.parquet")
        frame.to_parquet(folder / "dpo.parquet")
        return {}

    return store.produce(StageKey("selection", 1, PAIRS), build)


def configured(stage: str, scope: str, **changes: Any) -> SftConfig | DpoConfig:
    scoped = {"scope": LORA} if scope == "lora" else {}
    return CONFIGS[stage].model_copy(update={**scoped, **changes})


def train(store: ArtifactStore, model: ModelRef, config: SftConfig | DpoConfig) -> ArtifactRef:
    return finetune(config, selection(store), model, "", seed=0, store=store, tracker=NullTracker())


def weights(artifact: ArtifactRef) -> dict[str, torch.Tensor]:
    return load_file(artifact.file("model") / "model.safetensors")  # type: ignore[no-any-return]


def history(artifact: ArtifactRef) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads(artifact.file("history.json").read_text())
    return steps


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("stage", CONFIGS)
def test_adapters_are_merged_into_a_whole_model_that_changes_only_linear_layers(
    store: ArtifactStore, tiny_model: ModelRef, stage: str
) -> None:
    trained = train(store, tiny_model, configured(stage, "lora"))
    before, after = load_model(tiny_model).state_dict(), weights(trained)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {name for name in after if name.endswith("_proj.weight")}
    assert not list(trained.file("model").glob("adapter*"))
    assert load_model(ModelRef.from_artifact(trained, "trained")).num_parameters() == len_of(before)
    losses = [step[f"{stage}/loss"] for step in history(trained)]
    assert losses[-1] < losses[0]


def len_of(state: dict[str, torch.Tensor]) -> int:
    return sum({weight.data_ptr(): weight.numel() for weight in state.values()}.values())


def test_dpo_with_adapters_starts_at_its_reference(store: ArtifactStore, tiny_model: ModelRef) -> None:
    """The reference is the model without adapters, and training starts there: log 2, without a margin."""
    first = history(train(store, tiny_model, configured("dpo", "lora", epochs=1, batch_size=len(PAIRS))))[0]
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["dpo/margin"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("stage", CONFIGS)
@pytest.mark.parametrize("scope", ["full", "lora"])
def test_recomputed_activations_train_the_same_weights(
    store: ArtifactStore, tiny_model: ModelRef, stage: str, scope: str
) -> None:
    kept = weights(train(store, tiny_model, configured(stage, scope)))
    recomputed = weights(train(store, tiny_model, configured(stage, scope, gradient_checkpointing=True)))
    for name, weight in recomputed.items():
        torch.testing.assert_close(weight, kept[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("stage", CONFIGS)
def test_bf16_keeps_the_published_weights_in_fp32(store: ArtifactStore, tiny_model: ModelRef, stage: str) -> None:
    trained = train(store, tiny_model, configured(stage, "lora", precision="bf16"))
    assert {weight.dtype for weight in weights(trained).values()} == {torch.float32}
    losses = [step[f"{stage}/loss"] for step in history(trained)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("sharding", ["none"])
def test_two_processes_train_the_weights_of_one(tiny_model: ModelRef, tmp_path: Path, sharding: str) -> None:
    """SFT and DPO of a run share their processes, so all trainings of this test do."""
    trainings = [(stage, configured(stage, scope)) for scope in ("full", "lora") for stage in CONFIGS]
    one, two = ArtifactStore(tmp_path / "one"), ArtifactStore(tmp_path / "two")
    run_processes(tmp_path, two, tiny_model, trainings, sharding)
    for stage, config in trainings:
        alone = train(one, tiny_model, config)
        shared = two.find("model", alone.fingerprint)
        assert shared is not None
        for name, weight in weights(shared).items():
            torch.testing.assert_close(weight, weights(alone)[name], rtol=0, atol=5e-5)
        for ours, theirs in zip(history(shared), history(alone), strict=True):
            assert ours[f"{stage}/loss"] == pytest.approx(theirs[f"{stage}/loss"], abs=1e-4)


def run_processes(
    folder: Path, store: ArtifactStore, model: ModelRef, trainings: list[tuple[str, Any]], sharding: str
) -> None:
    """Train with two processes under torchrun."""
    batch = {
        "jobs": [{"stage": stage, "config": config.model_dump(mode="json")} for stage, config in trainings],
        "selection": selection(store).to_json(),
        "model": model.to_json(),
        "store": str(store.root),
        "sharding": sharding,
    }
    (folder / "batch.json").write_text(json.dumps(batch))
    (folder / "script.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    subprocess.run([*command, str(folder / "script.py"), str(folder / "batch.json")], check=True, env=environment)


@pytest.mark.parametrize("stage", CONFIGS)
def test_values_that_are_not_finite_stop_the_stage_and_publish_nothing(
    store: ArtifactStore, tiny_model: ModelRef, stage: str
) -> None:
    config = CONFIGS[stage].model_copy(update={"optimizer": OptimizerConfig(learning_rate=1e30)})
    with pytest.raises(MixcptError, match="not finite"):
        train(store, tiny_model, config)
    assert not list(store.list("model"))


def test_processes_that_do_not_divide_the_batch_are_refused(
    store: ArtifactStore, tiny_model: ModelRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"align\.sft\.batch_size is 4, which is not divisible by 3 processes"):
        train(store, tiny_model, CONFIGS["sft"])
