"""Three teachers with the same result (a frozen copy, disabled adapters, a cache), and refused combinations."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mixcpt.config import CachedTeacherConfig, CptMethod, DiscMethod, LssdMethod, PretrainConfig
from mixcpt.distill.teacher_writer import cache_teacher
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef
from mixcpt.store.spool import NullTracker
from mixcpt.train.pretrain import pretrain
from tests.unit.mixture.test_views_pairs import curated, mixed, sentence

LORA = {"kind": "lora", "rank": 4}
NUM_TOKENS = 2_000
COMMON: dict[str, Any] = {"batch_rows": 8, "micro_batch_rows": 4, "log_steps": 1}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> ArtifactRef:
    draw = np.random.default_rng(3)
    documents = [" ".join(sentence(draw) for _ in range(draw.integers(2, 5))) for _ in range(40)]
    return curated(tmp_path_factory.mktemp("teachers"), {"documents": documents})


def trained(
    settings: Mapping[str, Any], corpus: ArtifactRef, model: ModelRef, folder: Path, cache: ArtifactRef | None = None
) -> dict[str, Tensor]:
    """Train with the settings and return the final weights."""
    config = PretrainConfig(**COMMON | dict(settings))
    rows = mixed(corpus, model, folder, config.method, total_tokens=NUM_TOKENS)
    store = ArtifactStore(folder)
    ref = pretrain(config, rows, model, seed=0, store=store, tracker=NullTracker(), cache=cache)
    return load_file(ref.file("model") / "model.safetensors")


def cached(corpus: ArtifactRef, model: ModelRef, folder: Path, top_k: int, precision: str = "fp32") -> ArtifactRef:
    rows = mixed(corpus, model, folder, LssdMethod(), total_tokens=NUM_TOKENS)
    return cache_teacher(
        CachedTeacherConfig(top_k=top_k),
        rows,
        model,
        precision=precision,
        max_tokens=256,
        store=ArtifactStore(folder),
        tracker=NullTracker(),
    )


def distance(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((weight - second[name]).abs().max()) for name, weight in first.items())


@pytest.mark.parametrize("method", [LssdMethod(), DiscMethod()])
def test_adapters_off_teach_exactly_what_a_frozen_copy_does(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, method: Any
) -> None:
    frozen = trained({"method": method, "scope": LORA}, corpus, tiny_model, tmp_path / "frozen")
    off = trained(
        {"method": method, "scope": LORA, "teacher": {"kind": "adapter_off"}}, corpus, tiny_model, tmp_path / "off"
    )
    full = trained({"method": method}, corpus, tiny_model, tmp_path / "full")
    assert distance(frozen, off) == 0
    assert distance(frozen, full) > 1e-3


def test_cached_teacher_trains_nearly_the_weights_of_a_frozen_one(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path
) -> None:
    """Hardly any document is split here, so the remaining difference is the rounding of the cache."""
    frozen = trained({"method": LssdMethod()}, corpus, tiny_model, tmp_path / "frozen")
    wide = {"method": LssdMethod(), "teacher": {"kind": "cached", "top_k": 64}}
    whole = trained(wide, corpus, tiny_model, tmp_path / "wide", cached(corpus, tiny_model, tmp_path / "wide", 64))
    plain = trained({"method": LssdMethod(alpha=1.0)}, corpus, tiny_model, tmp_path / "plain")
    assert distance(frozen, whole) < 0.1 * distance(frozen, plain)


@pytest.mark.parametrize("teacher", ["frozen", "adapter_off", "cached"])
def test_bf16_trains_with_every_teacher(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, teacher: str
) -> None:
    caches = {
        precision: cached(corpus, tiny_model, tmp_path / "cache", 8, precision) if teacher == "cached" else None
        for precision in ("bf16", "fp32")
    }
    top_k = {"top_k": 8} if teacher == "cached" else {}
    settings = {"method": LssdMethod(), "scope": LORA, "teacher": {"kind": teacher, **top_k}}
    narrow = trained({**settings, "precision": "bf16"}, corpus, tiny_model, tmp_path / "cache", caches["bf16"])
    exact = trained(settings, corpus, tiny_model, tmp_path / "cache", caches["fp32"])
    assert {weight.dtype for weight in narrow.values()} == {torch.float32}
    assert 0 < distance(narrow, exact) < 0.05


@pytest.mark.parametrize("scope", [LORA, {"kind": "full"}])
def test_recomputed_activations_change_no_result(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path, scope: dict[str, Any]
) -> None:
    kept = trained({"method": DiscMethod(), "scope": scope}, corpus, tiny_model, tmp_path / "kept")
    settings = {"method": DiscMethod(), "scope": scope, "gradient_checkpointing": True}
    assert distance(kept, trained(settings, corpus, tiny_model, tmp_path / "again")) < 1e-6


def test_lora_on_a_tied_head_is_refused_before_training(
    corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="train_head"):
        trained({"method": CptMethod(), "scope": {**LORA, "train_head": True}}, corpus, tiny_model, tmp_path)


def test_cached_teacher_without_its_cache_is_refused(corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cache_teacher"):
        trained({"method": LssdMethod(), "teacher": {"kind": "cached"}}, corpus, tiny_model, tmp_path)


def test_mixture_of_another_method_is_refused(corpus: ArtifactRef, tiny_model: ModelRef, tmp_path: Path) -> None:
    rows = mixed(corpus, tiny_model, tmp_path, DiscMethod())
    with pytest.raises(ConfigError, match="not the streams of method lssd"):
        pretrain(
            PretrainConfig(**COMMON), rows, tiny_model, seed=0, store=ArtifactStore(tmp_path), tracker=NullTracker()
        )
