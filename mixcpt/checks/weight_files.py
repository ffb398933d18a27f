"""Headers and values of the weight files of a model."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mixcpt.checks.findings import Finding
from mixcpt.store.models import first_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SECONDS = 5.0
"""Maximum duration of the reading of values."""
_UNSAMPLED_BYTES = 2**30
"""Size of all weights above which a sample of every tensor is read before the rest."""
_SAMPLED_VALUES = 20_000
"""Number of values in each of the three parts of the sample of a tensor."""
_MAX_VALUE = 1e10
"""Largest absolute value of a sound weight; old checkpoints contain attention masks of -1e9."""
_MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors library accepts."""
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_REMEDY = "download the file again; with git, run `git lfs pull` in the folder"
_BEGINNINGS = {
    b"version https://git-lfs": "a git-lfs pointer, not the weights themselves",
    b"<": "an HTML or XML page, not weights",
    b"PK\x03\x04": "a zip or PyTorch file, not safetensors",
    b"\x80": "a pickle, not safetensors",
    b"GGUF": "a GGUF file, not safetensors",
    b"\x1f\x8b": "a gzip file, not safetensors",
    b"{": "JSON, not weights",
}
"""Descriptions of files that are not safetensors, by their first bytes."""


class Unreadable(Exception):
    """A weight file is damaged."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """Entry of the header of a weight file."""

    file: Path
    name: str
    dtype: str
    """Type as safetensors writes it, such as BF16."""
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the values."""
        return math.prod(self.shape) * int(self.dtype.lstrip("BF")) // 8 if self.dtype in _FLOATS else 0


def weight_files(folder: Path) -> Sequence[Path]:
    """Return the weight files that transformers loads.

    Raises:
        Unreadable: If the index is damaged, or names no file or a file outside the folder.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    return [folder / name for name in sorted(set(_weight_map(folder).values()))]


def file_problems(folder: Path) -> Iterator[Finding]:
    """Yield a problem for each weight file that is missing or damaged."""
    try:
        files = weight_files(folder)
    except Unreadable as error:
        yield Finding(problem=f"base.model: {error}", remedy="download all files of the model again")
        return
    tensors: list[Tensor] = []
    for file in files:
        try:
            tensors += read_header(file)
        except Unreadable as error:
            yield Finding(problem=f"base.model: {file} {error}", remedy=_REMEDY)
    yield from _index_problems(folder, tensors, files)
    yield from _type_problems(tensors)


def read_header(file: Path) -> list[Tensor]:
    """Return the tensors of a safetensors file, after a comparison of its size with its header.

    Raises:
        Unreadable: If the file is missing, shorter or longer than its header says, or no safetensors file.
    """
    if not file.is_file():
        raise Unreadable("is missing")
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(64)
        for beginning, description in _BEGINNINGS.items():
            if start.startswith(beginning) and start[8:9] != b"{":
                raise Unreadable(f"is {description} ({size} bytes)")
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise Unreadable(f"is no complete safetensors file: {size} bytes, with a header of {length} bytes")
        stream.seek(8)
        header = stream.read(length)
    tensors = _parsed(header, file, size - 8 - length)
    try:
        safe_open(file, framework="np")  # compares places, shapes and types
    except SafetensorError as error:
        raise Unreadable(f"is no valid safetensors file: {first_line(error)}") from None
    return tensors


def _parsed(header: bytes, file: Path, num_bytes: int) -> list[Tensor]:
    """Return the tensors of a header that belongs to `num_bytes` bytes of values."""
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        tensors = [
            Tensor(file=file, name=name, dtype=str(entry["dtype"]), shape=tuple(map(int, entry["shape"])))
            for name, entry in entries.items()
        ]
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError):
        raise Unreadable("has a damaged header") from None
    if end > num_bytes:
        raise Unreadable(f"is cut off: its tensors need {end} bytes, and it has {num_bytes}")
    if end < num_bytes:
        raise Unreadable(f"is longer than its header says: {num_bytes} bytes for tensors of {end} bytes")
    if not tensors:
        raise Unreadable("contains no tensor")
    return tensors


def value_problems(folder: Path) -> Iterator[Finding]:
    """Yield a problem for each weight file with values that no model computes with; needs files without problems.

    All values are read if that takes no longer than `_SECONDS`. Otherwise a sample of every tensor is read first, then
    as many tensors as the time allows, and a warning states the part.
    """
    all_tensors = chain.from_iterable(map(read_header, weight_files(folder)))
    tensors = [tensor for tensor in all_tensors if tensor.dtype in _FLOATS]
    reading = _Reading()
    num_bytes = sum(tensor.num_bytes for tensor in tensors)
    if num_bytes > _UNSAMPLED_BYTES:
        reading.read(tensors, _has_sound_sample)
    num_read = reading.read(tensors, _has_sound_values)
    for file, names in reading.damaged.items():
        yield Finding(
            problem=f"base.model: {file} has values that are not finite (NaN or infinity), or above "
            f"{_MAX_VALUE:g}, in {len(names)} tensors, such as {names[0]}",
            remedy="use another checkpoint: this model was damaged in training or in a conversion",
        )
    if num_read < num_bytes:
        yield Finding(
            problem=f"base.model: {num_read / 1e9:.1f} of {num_bytes / 1e9:.1f} GB of the weights and a sample of each "
            f"other tensor were read within {_SECONDS:g} seconds; a value that is not finite in the rest is refused "
            "when the first stage loads the model",
            is_warning=True,
        )


class _Reading:
    """Reading of tensors that ends after `_SECONDS`."""

    def __init__(self) -> None:
        self._end = time.monotonic() + _SECONDS
        self.damaged: dict[Path, list[str]] = {}
        """Names of the tensors with values that no model computes with."""

    def read(self, tensors: Sequence[Tensor], is_sound: Callable[[Any], bool]) -> int:
        """Read tensors until the end of the time, and return the number of their bytes."""
        num_bytes = 0
        for file, group in groupby(tensors, key=attrgetter("file")):
            with safe_open(file, framework="pt") as opened:
                for tensor in group:
                    if time.monotonic() > self._end:
                        return num_bytes
                    names = self.damaged.get(file, [])
                    if tensor.name not in names and not is_sound(opened.get_tensor(tensor.name)):
                        self.damaged[file] = [*names, tensor.name]
                    num_bytes += tensor.num_bytes
        return num_bytes


def _has_sound_sample(values: Any) -> bool:
    """Return whether the beginning, middle and end of a tensor, which is mapped and not read as a whole, are sound."""
    flat = values.flatten()
    last = max(0, len(flat) - _SAMPLED_VALUES)
    return all(_has_sound_values(flat[start : start + _SAMPLED_VALUES]) for start in (0, last // 2, last))


def _has_sound_values(values: Any) -> bool:
    if not values.numel():
        return True
    least, greatest = values.aminmax()  # ten times as fast as comparisons; both are NaN if a value is
    return bool(least >= -_MAX_VALUE) and bool(greatest <= _MAX_VALUE)


def _weight_map(folder: Path) -> Mapping[str, str]:
    """Return the names of all tensors with their files, by the index."""
    index = folder / INDEX
    if not index.is_file():
        others = sorted(file.name for file in folder.glob("*.safetensors"))
        raise Unreadable(f"{folder} has neither {WEIGHTS} nor {INDEX}; it has {', '.join(others[:3])}")
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        names, _ = dict(content["weight_map"]), dict(content["metadata"])
        files = {str(tensor): str(file) for tensor, file in names.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        raise Unreadable(
            f"{index} is no index of weights: it needs a JSON object with metadata and weight_map"
        ) from None
    if outside := [name for name in files.values() if Path(name).name != name]:
        raise Unreadable(f"{index} names a file outside the folder: {outside[0]}")
    if not files:
        raise Unreadable(f"{index} names no weights")
    return files


def _index_problems(folder: Path, tensors: Sequence[Tensor], files: Sequence[Path]) -> Iterator[Finding]:
    """Yield the differences between the index and the headers of files that can be read."""
    if files == [folder / WEIGHTS]:
        return
    index = folder / INDEX
    read = {tensor.file.name for tensor in tensors}
    expected = {name: file for name, file in _weight_map(folder).items() if file in read}
    found = {(tensor.name, tensor.file.name) for tensor in tensors}
    absent = sorted(name for name, file in expected.items() if (name, file) not in found)
    remedy = "download all files of the model again, from one revision"
    if absent:
        name = absent[0]
        yield Finding(
            problem=f"base.model: {index} says that {expected[name]} contains {name}, and it does not"
            f" ({len(absent)} such tensors)",
            remedy=remedy,
        )
    counts = Counter(tensor.name for tensor in tensors)
    if twice := sorted(name for name, count in counts.items() if count > 1):
        holders = sorted(tensor.file.name for tensor in tensors if tensor.name == twice[0])
        yield Finding(
            problem=f"base.model: {twice[0]} is in several files of {folder}: {', '.join(holders)}", remedy=remedy
        )


def _type_problems(tensors: Sequence[Tensor]) -> Iterator[Finding]:
    """Yield a problem if weights are stored as integers or 8-bit floats."""
    odd = [tensor for tensor in tensors if tensor.dtype not in _FLOATS and _is_weight(tensor)]
    if odd:
        yield Finding(
            problem=f"base.model: {odd[0].file} stores {odd[0].name} as {odd[0].dtype} ({len(odd)} such tensors); "
            "training needs weights in BF16, F16 or F32",
            remedy="use the model without quantisation, or save it in bfloat16 first",
        )


def _is_weight(tensor: Tensor) -> bool:
    """Return whether a tensor is a weight, and not a buffer such as a causal mask or positions."""
    return tensor.dtype.startswith("F8") or tensor.name.endswith(("weight", "_proj", "_blocks"))
