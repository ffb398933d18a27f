"""Keys of trainings and teacher caches: unchanged since the first release, and cheap."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from mixcpt.config import CachedTeacherConfig, PretrainConfig
from mixcpt.distill.keys import teacher_key
from mixcpt.store.artifacts import ArtifactRef
from mixcpt.store.models import ModelRef
from mixcpt.train.stage import pretrain_key
from tests.unit.train.mixtures import write_mixture

MIXTURE = ArtifactRef("mixture", "f", digest="m" * 64, path="/nowhere")
CACHE = ArtifactRef("teacher", "f", digest="c" * 64, path="/nowhere")
BASE = ModelRef("base", "/nowhere", digest="b" * 64)


def test_keys_of_default_trainings_are_those_of_the_first_release() -> None:
    plain = pretrain_key(PretrainConfig(), MIXTURE, BASE, seed=3)
    full = pretrain_key(PretrainConfig(), MIXTURE, BASE, seed=3, cache=CACHE, probe_digest="p" * 64)
    assert plain.fingerprint == "8122aeeeab54d01079c2fc9ed33539c111d1c07bc9ee7be6d6cd42bf1e36b850"
    assert full.fingerprint == "9ae88e58171990bae3c0865b0dce2326a388eef235ff9b44fc0e78a756adf787"


def test_key_of_a_teacher_cache_is_that_of_the_first_release(tmp_path: Path) -> None:
    columns = {"input_ids": np.zeros((1, 4), np.int32)}
    folder = write_mixture(tmp_path / "mixture", columns, {}, tokens_digest="t" * 64)
    mixture = ArtifactRef("mixture", "f", digest="m" * 64, path=str(folder))
    keys = [
        teacher_key(CachedTeacherConfig(), mixture, BASE, precision="fp32", max_tokens=max_tokens)
        for max_tokens in (0, 2048)
    ]
    assert keys[0] == keys[1]
    assert keys[0].fingerprint == "fe3477fdb05df666eda920dad2885b28cd13ea7ab57d648fe27e4d60ef821ecd"


def test_keys_need_neither_torch_nor_transformers() -> None:
    imports = "import sys, mixcpt.train.stage, mixcpt.distill.stage"
    script = f"{imports}; sys.exit(bool({{'torch', 'transformers'}} & {{*sys.modules}}))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
