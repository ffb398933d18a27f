"""What a teacher said of every token of a corpus, kept on disk: its likeliest tokens and the true one.

Entries are found by the index of the token in the corpus, so packing, order, seed, epochs and world size may change.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from mixcpt.artifacts import ArtifactRef
from mixcpt.distill.cached import CachedTargets
from mixcpt.errors import ConfigError

_DESCRIPTION = "cache.json"
_ARRAYS = ("token_ids", "log_probs", "label_log_probs")


@dataclass(frozen=True)
class CacheIdentity:
    """Of which corpus, teacher and size a cache is."""

    tokens_digest: str
    teacher_digest: str
    vocab_size: int
    num_tokens: int
    top_k: int

    @property
    def num_bytes(self) -> int:
        """Size on disk."""
        return sum(
            int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in zip(*self.layout.values(), strict=True)
        )

    @property
    def layout(self) -> dict[str, list[object]]:
        """Shapes and types of the arrays, in the order of their names.

        Half precision holds a log-probability of -8 within 0.004, that is a probability of 0.0003 within 0.4 %; the
        true token's is exact, for it decides the swap and the loss.
        """
        ids = np.uint16 if self.vocab_size <= 1 << 16 else np.int32
        many, one = (self.num_tokens, self.top_k), (self.num_tokens,)
        return {"shape": [many, many, one], "dtype": [ids, np.float16, np.float32]}

    def write(self, folder: Path) -> None:
        (folder / _DESCRIPTION).write_text(json.dumps(asdict(self), indent=2))

    def create(self, folder: Path) -> "CacheArrays":
        """Returns new files of the full size, or those that an earlier attempt has left there, open for writing."""
        arrays = []
        for name, shape, dtype in zip(_ARRAYS, *self.layout.values(), strict=True):
            path = folder / f"{name}.npy"
            mode = "r+" if path.exists() else "w+"
            arrays.append(np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape))
        return CacheArrays(*arrays)


@dataclass(frozen=True)
class CacheArrays:
    """One entry for each token: the teacher's prediction of it."""

    token_ids: Integer[np.ndarray, "tokens topk"]
    log_probs: np.ndarray
    label_log_probs: np.ndarray

    def put(self, places: Int[np.ndarray, " rows"], ids: Tensor, log_probs: Tensor, of_label: Tensor) -> None:
        """Writes entries; log-probabilities are rounded down, so that those of a token never sum to more than 1."""
        exact = log_probs.clamp_min(float(np.finfo(np.float16).min)).cpu().numpy()
        rounded = exact.astype(np.float16)
        down = np.where(rounded.astype(np.float32) > exact, np.nextafter(rounded, np.float16(-np.inf)), rounded)
        self.token_ids[places] = ids.cpu().numpy().astype(self.token_ids.dtype)
        self.log_probs[places] = np.maximum(down, np.finfo(np.float16).min)
        self.label_log_probs[places] = of_label.clamp_min(torch.finfo(torch.float32).min).cpu().numpy()

    def flush(self) -> None:
        for array in (self.token_ids, self.log_probs, self.label_log_probs):
            array.flush()  # type: ignore[attr-defined]


class TeacherCache:
    """A finished cache, read where it lies."""

    def __init__(self, arrays: CacheArrays) -> None:
        self._arrays = arrays

    @classmethod
    def open(cls, ref: ArtifactRef, *, tokens_digest: str, teacher_digest: str, vocab_size: int) -> "TeacherCache":
        """Returns the cache of an artifact.

        Raises:
            ConfigError: If it was made of other texts, with another tokenizer or by another teacher.
        """
        identity = CacheIdentity(**json.loads(ref.file(_DESCRIPTION).read_text()))
        wanted = {"tokens_digest": tokens_digest, "teacher_digest": teacher_digest, "vocab_size": vocab_size}
        wrong = [name for name, value in wanted.items() if getattr(identity, name) != value]
        if wrong:
            names = {"tokens_digest": "texts or tokenizer", "teacher_digest": "teacher", "vocab_size": "vocabulary"}
            raise ConfigError(
                f"the teacher's cache {ref.path} is of another {' and another '.join(names[name] for name in wrong)}",
                "make one of this mixture by this model (job `cache`), or set pretrain.teacher to frozen",
            )
        return cls(CacheArrays(*(np.load(ref.file(f"{name}.npy"), "r", allow_pickle=False) for name in _ARRAYS)))

    def targets(self, token_index: Int[Tensor, " tokens"], device: torch.device) -> CachedTargets:
        """Returns the teacher's predictions of these tokens of the corpus; of -1, which is not scored, any."""
        places = token_index.clamp_min(0).cpu().numpy()
        arrays = self._arrays
        return CachedTargets(
            torch.from_numpy(arrays.token_ids[places].astype(np.int64)).to(device),
            torch.from_numpy(arrays.log_probs[places].astype(np.float32)).to(device),
            torch.from_numpy(np.asarray(arrays.label_log_probs[places])).to(device),
        )
