"""Comparison of families with a plain loop: every kind of outcome, the process per group, and the table of the page."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import families
from benchmarks.family_table import table_of


def test_family_that_packs_is_equal_to_the_plain_loop() -> None:
    result = dict(families.outcomes("llama", ["disc"], ["lora"]))
    assert result["disc lora"]["outcome"] == "equal" and not result["disc lora"]["is_apart"]


def test_family_that_mixes_documents_is_equal_with_one_document_per_row() -> None:
    result = dict(families.outcomes("opt", ["cpt"], ["full"]))
    assert result["cpt full"]["outcome"] == "equal" and result["cpt full"]["is_apart"]


def test_family_that_reads_in_both_directions_is_refused() -> None:
    assert dict(families.outcomes("bert-generation", ["cpt"], ["full"]))["all"]["outcome"] == "refused"


def test_unknown_family_is_not_built() -> None:
    assert dict(families.outcomes("no-such-family", ["cpt"], ["full"]))["all"]["outcome"] == "not built"


def test_exception_while_training_is_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> list[float]:
        raise RuntimeError("shapes")

    monkeypatch.setattr("benchmarks.family_losses.product_losses", fails)
    result = dict(families.outcomes("llama", ["cpt"], ["full"]))
    assert result == {"cpt full": {"outcome": "failed", "reason": "RuntimeError: shapes"}}


@pytest.mark.parametrize(("product", "is_equal"), [(5.0, True), (5.00001, True), (5.001, False), (math.nan, False)])
def test_losses_are_equal_to_five_digits_and_finite(product: float, is_equal: bool) -> None:
    assert (families.compare([product], [5.0])["outcome"] == "equal") is is_equal


def test_end_of_a_process_is_told_with_its_signal_code_or_time() -> None:
    assert families.ended(-11, 3.0)["reason"] == "signal 11"
    assert families.ended(1, 3.0)["reason"] == "exit code 1"
    assert families.ended(-9, 1000.0)["reason"] == "stopped after 1000 seconds"


def test_table_replaces_the_old_one_of_a_page_and_has_every_outcome(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{families.BEGIN}\nold\n{families.END}\nafter\n")
    equal: dict[str, Any] = {"outcome": "equal", "difference": 2e-7, "is_apart": True}
    outcomes = {
        "opt": {"cpt full": equal, "disc lora": {"outcome": "refused", "reason": "no adapters"}},
        "llava": {"cpt full": equal},
        "bert": {"all": {"outcome": "refused", "reason": "reads both ways"}},
        "blt": {"all": {"outcome": "crashed", "reason": "signal 11"}},
    }
    families.write_table(page, table_of({"families": outcomes, "versions": {"torch": "2"}}))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text
    assert "| opt | one document | 2e-07 |" in text and "| llava | one document | 2e-07 |" in text
    assert "opt (disc lora): no adapters" in text and "bert: reads both ways" in text and "blt: signal 11" in text
    with pytest.raises(SystemExit):
        families.write_table(Path(__file__).with_name("mixtures.py"), "")


def test_command_compares_one_family_in_a_process_of_its_own(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    options = ["--methods", "cpt", "--scopes", "full", "--processes", "1", "--result", str(result)]
    families.main(["--families", "no-such-family", *options])
    families.main(["--families", "llama", "--resume", *options])
    found = json.loads(result.read_text())["families"]
    assert found["no-such-family"]["all"]["outcome"] == "not built"
    assert found["llama"]["cpt full"]["outcome"] == "equal"
