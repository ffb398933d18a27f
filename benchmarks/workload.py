"""Parts of the training benchmarks: documents of twenty sentences, random Llamas, timed steps."""

import json
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from mixcpt.closed_world.documents import state
from mixcpt.closed_world.templates import STATEMENTS
from mixcpt.closed_world.world import facts_of, world
from mixcpt.config import (
    BaseModelConfig,
    CurationConfig,
    FilesSource,
    MixtureConfig,
    PoolWeights,
    PretrainConfig,
)
from mixcpt.curation.pipeline import curate
from mixcpt.mixture.pipeline import mix
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore
from mixcpt.store.models import ModelRef, resolve_model

NUM_SENTENCES = 20
ROW_TOKENS = 512
BATCH_ROWS = 4
SHAPES = {
    "39m": LlamaConfig(
        vocab_size=32_000,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    ),
    "8b": LlamaConfig(
        vocab_size=128_256,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    ),
}


def write_model(folder: Path, shape: str) -> ModelRef:
    """Write a model with random weights and the closed world's tokenizer, whose ids are below the vocabulary size."""
    base = resolve_model(BaseModelConfig())
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        LlamaForCausalLM(SHAPES[shape]).save_pretrained(folder)
    for path in base.directory.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    return ModelRef(f"random-{shape}", str(folder), f"random-{shape}")


def write_documents(folder: Path, count: int) -> ArtifactRef:
    """Publish a corpus of documents of twenty sentences each."""
    facts = facts_of(world(0).domain)
    statements = [state(fact, wording) for wording, fact in product(STATEMENTS, facts)]
    lines = []
    for number in range(count):
        sentences = (statements[(number * 7 + place * 31) % len(statements)] for place in range(NUM_SENTENCES))
        lines.append(json.dumps({"text": " ".join(sentences)}))
    path = folder / "documents.jsonl"
    path.write_text("\n".join(dict.fromkeys(lines)) + "\n")
    source = FilesSource(name="documents", pool="domain", paths=(str(path),))
    config = CurationConfig(sources=(source,), heldout_fraction=0.0)
    return curate(config, seed=0, store=ArtifactStore(folder / "store"))


def mixture_of(folder: Path, config: PretrainConfig, steps: int, shape: str = "39m") -> tuple[ModelRef, ArtifactRef]:
    """Publish a model, and rows for at least `steps` steps of a method."""
    model = write_model(folder / "model", shape)
    corpus = write_documents(folder, 200)
    settings = MixtureConfig(
        weights=PoolWeights(domain=1, instructions=0, preferences=0),
        total_tokens=(steps + 2) * BATCH_ROWS * ROW_TOKENS,
        row_tokens=ROW_TOKENS,
    )
    store = ArtifactStore(folder / "store")
    return model, mix(settings, corpus, model, seed=0, store=store, streams=config.method.streams())


class StepTimer(TrainerCallback):
    """Measures the time of training steps; the first two are a warm-up."""

    def __init__(self) -> None:
        self._begun = 0.0
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._begun)

    @property
    def timed(self) -> Sequence[float]:
        return self.seconds[2:]
