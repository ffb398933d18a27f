"""The identity of results."""

import subprocess
import sys
from pathlib import Path

import pytest

from mixcpt.config import LssdMethod
from mixcpt.store.fingerprint import canonical_json, file_digest, fingerprint


def test_canonical_json_orders_keys_and_drops_white_space() -> None:
    assert canonical_json({"b": (1, 2.5), "a": None}) == '{"a":null,"b":[1,2.5]}'


def test_canonical_json_reads_pydantic_models_by_their_fields() -> None:
    assert canonical_json(LssdMethod()) == '{"alpha":0.5,"kind":"lssd","temperature":1.0}'


@pytest.mark.parametrize("value", [{1, 2}, Path("x"), object(), b"bytes", {1: "key"}])
def test_fingerprint_refuses_values_without_a_stable_text(value: object) -> None:
    with pytest.raises(TypeError, match="stable"):
        fingerprint({"outer": [value]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_fingerprint_refuses_non_finite_numbers_and_names_the_place(value: float) -> None:
    with pytest.raises(ValueError, match=r"value\.rate"):
        fingerprint({"rate": value})


def test_fingerprint_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = "from mixcpt.store.fingerprint import fingerprint; print(fingerprint({'b': [1, 'x'], 'a': {'c': 0.1}}))"
    other = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == fingerprint({"a": {"c": 0.1}, "b": [1, "x"]})


def test_file_digest_is_sha256_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
