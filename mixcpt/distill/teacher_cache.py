"""A teacher's predictions of every token of a corpus, on disk: its likeliest tokens and the true one.

    token_ids.npy        [tokens, top_k]  uint16, int32 for vocabularies above 65,536: the likeliest first
    root_probs.npy       [tokens, top_k]  uint16: 65,535 times the fourth root of the probability
    log_mass.npy         [tokens]         float32: log of the sum of the kept probabilities
    label_log_probs.npy  [tokens]         float32: log-probability of the true token
    cache.json                            texts, teacher and size (`CacheIdentity`)

The index of an entry is the index of its token in the corpus, so packing, order, seed, epochs and world size may
change. Entries of a document's first token are meaningless, because nothing predicts it.

A probability q is read as the fourth power of its stored root, normalised so that an entry's probabilities sum to its
mass. Therefore rounding never changes the probability of the remaining vocabulary. It changes q by at most
0.003 % / q^(1/4), for instance by 0.3 % at 1e-8.
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
    """Return the bytes of a cache without file headers: per token 4 * top_k + 8, or 6 * top_k + 8."""
    return num_tokens * sum(entry.itemsize for entry in _entry_types(top_k, vocab_size).values())


def _entry_types(top_k: int, vocab_size: int) -> dict[str, np.dtype[Any]]:
    """Return the type of one token's entry in each file, by the file's name without suffix."""
    ids = np.uint16 if vocab_size <= 1 << 16 else np.int32
    kinds = {"token_ids": (ids, (top_k,)), "root_probs": (np.uint16, (top_k,))}
    return {name: np.dtype(kind) for name, kind in kinds.items()} | {
        "log_mass": np.dtype(np.float32),
        "label_log_probs": np.dtype(np.float32),
    }


@dataclass(frozen=True, kw_only=True)
class CacheIdentity:
    """Texts, teacher and size of a cache."""

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
    """The teacher's predictions of successive tokens in stored form."""

    token_ids: Integer[np.ndarray, "tokens topk"]
    root_probs: UInt16[np.ndarray, "tokens topk"]
    log_mass: Float32[np.ndarray, " tokens"]
    label_log_probs: Float32[np.ndarray, " tokens"]

    @classmethod
    def blank(cls, num_tokens: int, identity: CacheIdentity) -> "Entries":
        """Return placeholder entries, whose values are meaningless but finite."""
        entries = cls(**{name: np.zeros(num_tokens, entry) for name, entry in identity.entry_types.items()})
        entries.root_probs.fill(1)
        return entries

    def put(
        self, places: Int[np.ndarray, " rows"], log_probs: Float[Tensor, "rows vocab"], labels: Int[Tensor, " rows"]
    ) -> None:
        """Write the predictions of the tokens `labels` into `places`; raise `ModelError` if they are not finite."""
        top = log_probs.topk(self.token_ids.shape[1], dim=1)
        log_mass = top.values.logsumexp(dim=1).clamp_max(0).cpu().numpy()
        if not np.isfinite(log_mass).all():
            raise ModelError("the teacher's predictions are not finite", "check its weights and pretrain.precision")
        roots = (top.values / _ROOT).exp().mul(_SCALE).round().clamp_min(1)
        label_log_probs = log_probs.gather(1, labels.unsqueeze(1)).squeeze(1)
        self.token_ids[places] = top.indices.cpu().numpy()
        self.root_probs[places] = roots.cpu().numpy()
        self.log_mass[places] = log_mass
        self.label_log_probs[places] = label_log_probs.clamp_min(torch.finfo(torch.float32).min).cpu().numpy()


class CacheWriter:
    """Writer of a cache's files; appended entries survive a crash."""

    def __init__(self, folder: Path, identity: CacheIdentity) -> None:
        self._identity = identity
        self._paths = {name: folder / f"{name}.npy" for name in identity.entry_types}
        self._progress = folder / _PROGRESS
        self.num_tokens = self._resume()
        """Number of tokens whose entries are written."""

    def append(self, entries: Entries) -> None:
        """Append the entries of the next tokens; after the return a crash does not lose them."""
        for name, path in self._paths.items():
            with path.open("ab") as stream:
                stream.write(getattr(entries, name).data)
                stream.flush()
                os.fsync(stream.fileno())
        self.num_tokens += len(entries.log_mass)
        draft = self._progress.with_suffix(".draft")
        with draft.open("w") as stream:
            json.dump({"tokens": self.num_tokens}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._progress)

    def publish(self, folder: Path) -> None:
        """Link the files into `folder`. The originals stay, so that a crash during publishing loses no work."""
        for path in self._paths.values():
            try:
                os.link(path, folder / path.name)
            except OSError:  # the file system has no hard links
                shutil.move(path, folder / path.name)
        (folder / _DESCRIPTION).write_text(json.dumps(asdict(self._identity), indent=2))

    def _resume(self) -> int:
        """Truncate the files after the last complete block, and return its number of tokens; 0 starts new files."""
        done, types = 0, self._identity.entry_types
        if self._progress.exists():
            done = int(json.loads(self._progress.read_text())["tokens"])
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


def _header(entry: np.dtype[Any], num_tokens: int) -> bytes:
    """Return the header of an .npy file of `num_tokens` entries."""
    stream = BytesIO()
    kind = np.lib.format.dtype_to_descr(entry.base)
    shape = (num_tokens, *entry.shape)
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@dataclass(frozen=True)
class TeacherCache:
    """A published cache; entries are read from disk on access."""

    entries: Entries

    @classmethod
    def open(cls, ref: ArtifactRef, *, tokens_digest: str, teacher_digest: str, vocab_size: int) -> "TeacherCache":
        """Open the cache of an artifact; raise `ConfigError` if it is not of these texts and this teacher."""
        identity = CacheIdentity(**json.loads(ref.file(_DESCRIPTION).read_text()))
        is_different = {
            "other texts or another tokenizer": identity.tokens_digest != tokens_digest,
            "another teacher": identity.teacher_digest != teacher_digest,
            "another vocabulary": identity.vocab_size != vocab_size,
        }
        if differences := [text for text, value in is_different.items() if value]:
            raise ConfigError(
                f"the teacher's cache {ref.path} has {' and '.join(differences)}",
                "create the cache of this mixture with this model (job `cache`), or set pretrain.teacher to frozen",
            )
        paths = {name: ref.file(f"{name}.npy") for name in identity.entry_types}
        return cls(Entries(**{name: np.load(path, "r", allow_pickle=False) for name, path in paths.items()}))

    def targets(self, token_index: Int[Tensor, " tokens"], device: torch.device) -> CachedTargets:
        """Return the teacher's predictions of tokens of the corpus; for -1, which is not scored, any prediction."""
        places, entries = token_index.clamp_min(0).cpu().numpy(), self.entries
        token_ids = torch.from_numpy(entries.token_ids[places].astype(np.int32)).to(device).long()
        roots = torch.from_numpy(entries.root_probs[places].astype(np.float32)).to(device)
        log_mass = torch.from_numpy(np.asarray(entries.log_mass[places])).to(device)
        label_log_probs = torch.from_numpy(np.asarray(entries.label_log_probs[places])).to(device)
        # log q = 4 * log(root) + log(mass) - log(sum of root^4)
        shift = log_mass - (roots / _SCALE).pow(_ROOT).sum(dim=1).log()
        log_probs = _ROOT * (roots / _SCALE).log() + shift.unsqueeze(1)
        return CachedTargets(token_ids, log_probs, label_log_probs)
