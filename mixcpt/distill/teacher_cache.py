"""What a teacher said of every token of a corpus, kept on disk: its likeliest tokens and the true one.

    token_ids.npy        [tokens, top_k]  uint16, int32 for vocabularies above 65,536: the likeliest first
    root_probs.npy       [tokens, top_k]  uint16: 65,535 times the fourth root of the probability
    log_mass.npy         [tokens]         float32: log of what the kept probabilities sum to
    label_log_probs.npy  [tokens]         float32: log-probability of the true token
    cache.json                            of which texts, teacher and size

Entries are found by the index of the token in the corpus, so packing, order, seed, epochs and world size may change.
Those of a document's first token, which nothing predicts, mean nothing.

A probability q is read as its stored fourth power, divided by the sum of the entry's fourth powers and multiplied by
the mass: what rounding does to one of the kept tokens, the others make good, and the rest of the vocabulary keeps its
exact share. Rounding changes q by at most 0.003 % / q^(1/4), which is 0.3 % at 1e-8.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Integer, UInt16
from torch import Tensor

from mixcpt.distill.cached import CachedTargets
from mixcpt.errors import ConfigError, ModelError
from mixcpt.store.artifacts import ArtifactRef

_DESCRIPTION = "cache.json"
_PROGRESS = "progress.json"
_ROOT = 4
_SCALE = np.iinfo(np.uint16).max


def cache_bytes(num_tokens: int, top_k: int, vocab_size: int) -> int:
    """Returns the size of a cache without its headers, in bytes: per token 4 * top_k + 8, or 6 * top_k + 8."""
    return num_tokens * sum(entry.itemsize for entry in _entry_types(top_k, vocab_size).values())


def _entry_types(top_k: int, vocab_size: int) -> dict[str, np.dtype[Any]]:
    """Returns what a token's entry is made of, by the name of the file."""
    ids = np.uint16 if vocab_size <= 1 << 16 else np.int32
    kinds = {"token_ids": (ids, (top_k,)), "root_probs": (np.uint16, (top_k,))}
    return {name: np.dtype(kind) for name, kind in kinds.items()} | {
        "log_mass": np.dtype(np.float32),
        "label_log_probs": np.dtype(np.float32),
    }


@dataclass(frozen=True)
class CacheIdentity:
    """Of which texts, teacher and size a cache is."""

    tokens_digest: str
    teacher_digest: str
    vocab_size: int
    num_tokens: int
    top_k: int

    @property
    def num_bytes(self) -> int:
        return cache_bytes(self.num_tokens, self.top_k, self.vocab_size)

    @property
    def entry_types(self) -> dict[str, np.dtype[Any]]:
        return _entry_types(self.top_k, self.vocab_size)


@dataclass(frozen=True)
class Entries:
    """The teacher's predictions of successive tokens, as they are stored."""

    token_ids: Integer[np.ndarray, "tokens topk"]
    root_probs: UInt16[np.ndarray, "tokens topk"]
    log_mass: Float32[np.ndarray, " tokens"]
    label_log_probs: Float32[np.ndarray, " tokens"]

    @classmethod
    def blank(cls, num_tokens: int, identity: CacheIdentity) -> "Entries":
        """Returns entries that mean nothing; all that is read of them is finite."""
        entries = cls(**{name: np.zeros(num_tokens, entry) for name, entry in identity.entry_types.items()})
        entries.root_probs.fill(1)
        return entries

    def put(
        self, places: Int[np.ndarray, " rows"], log_probs: Float[Tensor, "rows vocab"], labels: Int[Tensor, " rows"]
    ) -> None:
        """Writes the predictions of the tokens `labels`, which stand at `places`.

        Raises:
            ModelError: If they are not finite.
        """
        top = log_probs.topk(self.token_ids.shape[1], dim=1)
        log_mass = top.values.logsumexp(dim=1).clamp_max(0).cpu().numpy()
        if not np.isfinite(log_mass).all():
            raise ModelError("the teacher's predictions are not finite", "check its weights and pretrain.precision")
        roots = (top.values / _ROOT).exp().mul(_SCALE).round().clamp_min(1)
        of_label = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
        self.token_ids[places] = top.indices.cpu().numpy()
        self.root_probs[places] = roots.cpu().numpy()
        self.log_mass[places] = log_mass
        self.label_log_probs[places] = of_label.clamp_min(torch.finfo(torch.float32).min).cpu().numpy()


class CacheWriter:
    """The files of a cache while they grow; what was appended before a crash is kept."""

    def __init__(self, folder: Path, identity: CacheIdentity) -> None:
        self._identity = identity
        self._paths = {name: folder / f"{name}.npy" for name in identity.entry_types}
        self._progress = folder / _PROGRESS
        self.num_tokens = self._resume()
        """How many tokens have their entries."""

    def append(self, entries: Entries) -> None:
        """Adds the entries of the next tokens; a crash after the return does not lose them."""
        for name, path in self._paths.items():
            with path.open("ab") as stream:
                stream.write(getattr(entries, name).data)
                stream.flush()
                os.fsync(stream.fileno())
        self.num_tokens += len(entries.log_mass)
        self._mark()

    def publish(self, folder: Path) -> None:
        """Puts the files into `folder`; they stay here too, so that a crash while it is published costs no work."""
        for path in self._paths.values():
            try:
                os.link(path, folder / path.name)
            except OSError:  # a file system without hard links
                shutil.move(path, folder / path.name)
        (folder / _DESCRIPTION).write_text(json.dumps(asdict(self._identity), indent=2))

    def _resume(self) -> int:
        """Returns how many tokens an earlier attempt has finished; what it left of others is cut off."""
        done, types = self._marked(), self._identity.entry_types
        headers = {name: _header(entry, self._identity.num_tokens) for name, entry in types.items()}
        sizes = {name: len(headers[name]) + done * entry.itemsize for name, entry in types.items()}
        if not all(path.exists() and path.stat().st_size >= sizes[name] for name, path in self._paths.items()):
            done = 0
        for name, path in self._paths.items():
            if done:
                os.truncate(path, sizes[name])
            else:
                path.write_bytes(headers[name])
        return done

    def _marked(self) -> int:
        try:
            return int(json.loads(self._progress.read_text())["tokens"])
        except FileNotFoundError:
            return 0

    def _mark(self) -> None:
        draft = self._progress.with_suffix(".draft")
        with draft.open("w") as stream:
            json.dump({"tokens": self.num_tokens}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._progress)


def _header(entry: np.dtype[Any], num_tokens: int) -> bytes:
    """Returns how an .npy file of so many entries begins."""
    stream = BytesIO()
    kind = np.lib.format.dtype_to_descr(entry.base)
    shape = (num_tokens, *entry.shape)
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


class TeacherCache:
    """A finished cache, read where it lies."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

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
        paths = {name: ref.file(f"{name}.npy") for name in identity.entry_types}
        return cls(Entries(**{name: np.load(path, "r", allow_pickle=False) for name, path in paths.items()}))

    def targets(self, token_index: Int[Tensor, " tokens"], device: torch.device) -> CachedTargets:
        """Returns the teacher's predictions of these tokens of the corpus; of -1, which is not scored, any."""
        places, kept = token_index.clamp_min(0).cpu().numpy(), self._entries
        token_ids = torch.from_numpy(kept.token_ids[places].astype(np.int32)).to(device).long()
        roots = torch.from_numpy(kept.root_probs[places].astype(np.float32)).to(device)
        log_mass, of_label = (
            torch.from_numpy(np.asarray(column[places])).to(device) for column in (kept.log_mass, kept.label_log_probs)
        )
        shift = log_mass - (roots / _SCALE).pow(_ROOT).sum(dim=1).log()
        return CachedTargets(token_ids, _ROOT * (roots / _SCALE).log() + shift.unsqueeze(1), of_label)
