"""Headers and values of the weight files of a model; reads no whole file above `_WHOLE_BYTES`."""

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mixcpt.checks.findings import Finding
from mixcpt.store.models import first_line

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_WHOLE_BYTES = 2**30
"""Maximum size of all weights for which every value is checked; larger models are sampled."""
_SAMPLED_VALUES = 20_000
"""Number of values in the sample of one tensor."""
_SAMPLING_SECONDS = 3.0
"""Maximum duration of the sampling of a large model."""
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
    """Yield a problem for each weight file with values that no model computes with; needs files without problems."""
    files = weight_files(folder)
    reads_all = sum(file.stat().st_size for file in files) <= _WHOLE_BYTES
    end = time.monotonic() + _SAMPLING_SECONDS
    for file in files:
        damaged = []
        with safe_open(file, framework="pt") as opened:
            for tensor in read_header(file):
                if not reads_all and time.monotonic() > end:
                    break
                if tensor.dtype in _FLOATS and not _is_sound(opened, tensor, reads_all=reads_all):
                    damaged.append(tensor.name)
        if damaged:
            yield Finding(
                problem=f"base.model: {file} has values that are not finite (NaN or infinity), or above "
                f"{_MAX_VALUE:g}, in {len(damaged)} tensors, such as {damaged[0]}",
                remedy="use another checkpoint: this model was damaged in training or in a conversion",
            )


def _is_sound(opened: Any, tensor: Tensor, *, reads_all: bool) -> bool:
    if reads_all or not tensor.shape:
        return _has_sound_values(opened.get_tensor(tensor.name))
    part = opened.get_slice(tensor.name)
    values_per_row = max(1, _product(tensor.shape[1:]))
    num_rows = max(1, _SAMPLED_VALUES // values_per_row)
    starts = {0, max(0, tensor.shape[0] // 2), max(0, tensor.shape[0] - num_rows)}
    return all(_has_sound_values(part[start : start + num_rows]) for start in starts)


def _has_sound_values(values: Any) -> bool:
    return bool((values.abs() <= _MAX_VALUE).all())  # false for NaN


def _product(sizes: Sequence[int]) -> int:
    result = 1
    for size in sizes:
        result *= size
    return result


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
