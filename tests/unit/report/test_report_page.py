"""Report page: its numbers, its independence of other files and the network, and escaped user text."""

import base64
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from mixcpt.config import load_config
from mixcpt.errors import ArtifactError
from mixcpt.records.run import RunResult
from mixcpt.report.page import print_results, write_report
from mixcpt.store.artifacts import ArtifactStore
from tests.unit.report_artifacts import hits, run

DOMAIN, GENERAL = "domain_questions", "general_questions_unasked"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}\x1b[31m"
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
BASE_RIGHT = {DOMAIN: hits(40, 0.0), GENERAL: hits(50, 0.9)}
TRADITIONAL_RIGHT = {DOMAIN: hits(40, 0.1), GENERAL: hits(50, 0.3)}
MIXCPT_RIGHT = {DOMAIN: hits(40, 0.9, offset=3), GENERAL: hits(50, 0.8, offset=5)}


class Page(HTMLParser):
    """Strict parser of a page: requires elements closed in order; collects elements, ids and visible text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.pieces: list[str] = []
        self.rows: list[list[str]] = []
        self.html = html
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID or "svg" in self.open, f"<{tag}/> closes itself outside a picture"
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.pieces.append(data)
        if {"td", "th"} & set(self.open) and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def cells(self, *starts: str) -> list[str]:
        """Return the first table row whose first cells begin with these texts."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return next(
            row for row in rows
            if len(row) >= len(starts) and all(cell.startswith(start) for cell, start in zip(row, starts, strict=False))
        )  # fmt: skip


def written(runs: list[RunResult], store: ArtifactStore, folder: Path) -> Page:
    return Page(write_report(runs, store, folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    return ArtifactStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def runs(store: ArtifactStore) -> list[RunResult]:
    bits = [130.0 + index for index in range(12)]
    return [
        run(store, "traditional", base_right=BASE_RIGHT, final_right=TRADITIONAL_RIGHT, final_bits=bits),
        run(
            store,
            "mixcpt",
            base_right=BASE_RIGHT,
            final_right=MIXCPT_RIGHT,
            pretrained_right=TRADITIONAL_RIGHT,
            open_book_right={DOMAIN: hits(40, 0.5)},
            final_bits=bits,
        ),
    ]


@pytest.fixture(scope="module")
def page(runs: list[RunResult], store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory) -> Page:
    return written(runs, store, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Page on which every user text is an attack."""
    store = ArtifactStore(tmp_path_factory.mktemp("hostile"))
    made = run(
        store,
        "attacked",
        base_right=BASE_RIGHT,
        final_right=MIXCPT_RIGHT,
        pretrained_right=MIXCPT_RIGHT,
        final_answers=[HOSTILE] * 40,
        source=HOSTILE,
        removed_text=HOSTILE,
        extra_task=HOSTILE,
    )
    return written([made], store, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Page of a run that ends after pre-training, with a corpus without removed records."""
    store = ArtifactStore(tmp_path_factory.mktemp("bare"))
    made = run(store, "bare", base_right=BASE_RIGHT, final_right=MIXCPT_RIGHT, empty=True)
    return written([made], store, tmp_path_factory.mktemp("page"))


def share(right: list[int]) -> str:
    return f"{100 * sum(right) / len(right):.1f} %"


def test_page_says_values_changes_and_intervals_of_every_run(page: Page) -> None:
    for task, base, first, second in (
        (DOMAIN, BASE_RIGHT, TRADITIONAL_RIGHT, MIXCPT_RIGHT),
        (GENERAL, BASE_RIGHT, TRADITIONAL_RIGHT, MIXCPT_RIGHT),
    ):
        row = page.cells(task.replace("_", " "), str(len(base[task])))
        assert row[2] == share(base[task])
        for cell, right in ((row[3], first), (row[4], second)):
            delta = 100 * (sum(right[task]) - sum(base[task])) / len(right[task])
            assert cell.startswith(share(right[task]))
            assert re.search(rf"{'+' if delta > 0 else '−'}{abs(delta):.1f} \[".replace("+", r"\+"), cell), cell
    bits = page.cells("domain bits (lower is better)", "12")
    assert bits[2] == "2.000" and bits[3].startswith(f"{sum(130 + index for index in range(12)) / 1200:.3f}")


def test_page_begins_with_one_verdict_and_its_uncertainty(page: Page) -> None:
    assert "mixcpt is better than traditional in domain questions (+80.0 points, 95 % interval +" in page.text


def test_page_compares_training_with_a_document_in_the_prompt(page: Page) -> None:
    assert (
        "Of 40 domain questions, the base answers 0.0 % without and 50.0 % with the document in its prompt" in page.text
    )
    assert "after training it answers 90.0 % without a document, significantly more" in page.text
    assert page.text.count("with the document in its prompt; after training") == 1  # the other run was not evaluated
    assert page.cells("domain questions", "mixcpt", "40")[3:6] == ["0.0 %", "50.0 %", "90.0 %"]


def test_page_counts_facts_by_state_and_shows_them_with_their_documents(page: Page) -> None:
    states = ["known", "learned", "half-learned", "unchanged", "contradicted", "forgotten", "at chance"]
    assert page.cells("Task", "known")[1:] == states
    learned = sum(MIXCPT_RIGHT[DOMAIN])
    counted = [row for row in page.rows if [" ".join(cell.split()) for cell in row][:1] == ["domain questions"]]
    assert any(
        row[2].strip() == str(learned) and row[4].strip() == str(40 - learned) for row in counted if len(row) == 8
    )
    shown = [attributes["data-state"] for tag, attributes in page.elements if "data-state" in attributes]
    assert {"forgotten", "learned", "known"} <= set(shown) <= set(states)
    filters = [attributes["value"] for tag, attributes in page.elements if attributes.get("type") == "radio"]
    assert filters == ["all", *states] * 2


def test_page_shows_right_answers_and_drift_below_the_answers(page: Page) -> None:
    row = page.cells("domain questions", "mixcpt, pre-trained")
    assert row[6] == "0.060 ± 0.005"  # 0.02 to 0.10, eight of each: their mean and its standard error


def test_page_says_what_went_in_and_what_was_removed(page: Page) -> None:
    assert page.cells("anatomy", "domain", "1,946") == [
        "anatomy",
        "domain",
        "1,946",
        "1",
        "8",
        "97",
        "1,840",
        "891 KiB",
    ]
    assert page.cells("anatomy", "domain", "1,840", "200,000")[4:] == ["650,000", "50.0 %", "3.25"]
    assert page.cells("anatomy", "deduplicate", "exact duplicate", "7")[4] == "259 B"
    assert page.cells("anatomy", "anatomy.jsonl, line 12")[2:] == ["text", "no JSON", '{"text": "cut of']
    assert "a1" * 32 in page.text, "the digest of the source file"
    assert page.text.count("The heart has four chambers, copy") == 3, "three examples of seven"


def test_page_says_what_each_stage_cost(page: Page, runs: list[RunResult]) -> None:
    row = page.cells("pre-training", "300", "1,300,000")
    assert row[3] == "20.8 TFLOP" and row[6] == "1.35 GiB"
    assert page.cells("total")[2:4] == ["1,360,000", "21.8 TFLOP"]


def test_page_names_every_artifact_with_its_digests_and_tracked_run(page: Page, runs: list[RunResult]) -> None:
    for made in runs:
        for ref in [*made.refs.values(), *made.evaluations.values()]:
            assert ref.fingerprint in page.html and ref.digest in page.html
        assert f"run-{made.name}" in page.text
    assert runs[0].base.digest in page.text


def test_page_holds_settings_that_run_it_again(page: Page, runs: list[RunResult], tmp_path: Path) -> None:
    links = {attrs["download"]: attrs["href"] for tag, attrs in page.elements if "download" in attrs}
    for made in runs:
        head, _, code = links[f"{made.name}.yaml"].partition(",")
        assert head == "data:application/yaml;base64"
        path = tmp_path / f"{made.name}.yaml"
        path.write_bytes(base64.b64decode(code))
        assert load_config(path) == made.config


def test_page_shows_ten_answers_with_marks_flips_first(page: Page) -> None:
    table = page.html.split('class="answers"')[1].split("</table>")[0]
    assert table.count("</tr>") == 11
    marks = re.findall(r'class="(right|wrong)"', table)
    assert len(marks) == 10 * 4, "base, traditional final, mixcpt pre-trained and final"
    for index in range(10):
        base, traditional, _, mixcpt = marks[4 * index : 4 * index + 4]
        assert base != traditional or base != mixcpt, "there are flips enough for ten"


@pytest.mark.parametrize("name", ["page", "hostile", "bare"])
def test_page_needs_nothing_from_outside(name: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    for tag, attrs in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "embed", "img", "base", "form", "foreignobject"), tag
        for attribute, text in attrs.items():
            assert not attribute.startswith("on"), f"<{tag} {attribute}>"
            if attribute in ("src", "href", "xlink:href", "action", "srcset", "poster"):
                assert text.startswith(("#", "data:application/yaml;base64,")), text
            if attribute == "style":
                assert not re.search(r"url\((?!#)", text), text
    styles = re.findall(r"<style>(.*?)</style>", page.html, re.DOTALL)
    assert len(styles) == 1 and "url(" not in styles[0] and "@import" not in styles[0]


@pytest.mark.parametrize("name", ["page", "hostile", "bare"])
def test_page_is_accessible_in_its_structure(name: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(name)
    tags = [tag for tag, _ in page.elements]
    assert page.html.startswith("<!doctype html>") and ("html", {"lang": "en"}) in page.elements
    assert tags.count("h1") == 1 and tags.count("main") == 1 and tags.count("title") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(below - above <= 1 for above, below in pairwise(levels)), levels
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)), "ids are unique"
    for tag, attrs in page.elements:
        if tag == "svg":
            assert attrs["role"] == "img" and attrs["aria-labelledby"] in ids
        if tag == "th":
            assert attrs["scope"] in ("col", "row", "rowgroup")
        if tag == "a" and attrs["href"].startswith("#"):
            assert attrs["href"][1:] in ids
        if tag == "section":
            assert attrs["aria-labelledby"] in ids
    assert tags.count("figure") == tags.count("figcaption") == tags.count("svg") > 0


def test_page_shows_foreign_text_as_text_without_control_characters(hostile: Page) -> None:
    shown = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}\ufffd[31m"
    assert hostile.text.count(shown) >= 6, "source, removed and quarantined record, sample, answer, task"
    assert "\x1b" not in hostile.html
    assert shown in hostile.cells("<script>", "domain")[0]


def test_page_of_a_run_without_alignment_says_so(bare: Page) -> None:
    assert "No sample was selected: the run ends after pre-training." in bare.text
    assert "No record was removed." in bare.text and "No record was quarantined." in bare.text
    with pytest.raises(StopIteration):
        bare.cells("SFT")


def test_page_is_the_same_for_the_same_runs(
    page: Page, runs: list[RunResult], store: ArtifactStore, tmp_path: Path
) -> None:
    assert written(runs, store, tmp_path / "new").html == page.html
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["report.html"], "no draft is left"


def test_report_that_fails_leaves_the_old_page_alone(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    made = run(store, "lost", base_right=BASE_RIGHT, final_right=MIXCPT_RIGHT)
    shutil.rmtree(made.refs["mixture"].path)
    output = tmp_path / "pages" / "report.html"
    output.parent.mkdir()
    output.write_text("the old page")
    with pytest.raises(ArtifactError, match="mixture"):
        write_report([made], store, output)
    assert output.read_text() == "the old page"
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]


def test_report_to_a_folder_is_refused_and_leaves_nothing(
    runs: list[RunResult], store: ArtifactStore, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactError, match="folder"):
        write_report(runs[:1], store, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_report_import_loads_neither_torch_nor_pyplot() -> None:
    modules = "{'torch', 'adjustText', 'matplotlib.pyplot'}"
    code = f"import sys, mixcpt.report.page, mixcpt.report.table; print({modules} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_page_shows_the_ancestry_of_a_model(page: Page) -> None:
    for part in ("mixture of 1,300,000 tokens", "domain anatomy: 1,840 read, 97 held out", "anatomy.jsonl (996 KiB"):
        assert part in page.text


def test_printed_results_are_kept_and_belong_to_their_runs(
    runs: list[RunResult], store: ArtifactStore, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runs[0].config.runtime.model_copy(update={"store": str(store.root)})
    first, second = ([replace(run, config=run.config.model_copy(update={"runtime": runtime}))] for run in runs[:2])
    print_results(first)
    printed = capsys.readouterr().out
    with monkeypatch.context() as patch:
        patch.setattr("mixcpt.report.page.summarise", lambda runs: pytest.fail("the statistics were computed again"))
        print_results(first)
    assert capsys.readouterr().out.split() == printed.split()
    write_report(second, store, store.root / "report.html")  # as `mixcpt report` does
    print_results(second)
    assert second[0].name in capsys.readouterr().out
    print_results(first)
    assert capsys.readouterr().out.split() == printed.split()


def test_page_without_general_task_says_in_its_first_sentence_that_forgetting_was_not_measured(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    right = {DOMAIN: hits(40, 0.9)}
    made = run(store, "blind", base_right={DOMAIN: hits(40, 0.0)}, final_right=right)
    page = written([made], store, tmp_path)
    assert page.html.split('<p class="lead">')[1].startswith("Forgetting was not measured: no task is general.")


def test_page_of_few_passages_claims_no_gain(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    base, final = {DOMAIN: hits(6, 0.0), GENERAL: hits(50, 0.9)}, {DOMAIN: hits(6, 0.9), GENERAL: hits(50, 0.9)}
    page = written([run(store, "few", base_right=base, final_right=final)], store, tmp_path)
    sentence = page.html.split('<p class="lead">')[1].split("</p>")[0]
    assert "too few domain passages to show a gain" in sentence and "gained" not in sentence


def test_page_prints_the_result_and_leaves_long_sections_out(page: Page) -> None:
    style = page.html.split("@media print {\n  nav")[1].split("\n}")[0]
    hidden = style.split("{ display: none; }")[0]
    ids = {attributes["id"] for tag, attributes in page.elements if tag == "section"}
    assert {"answers", "facts", "removed", "training"} <= {name for name in ids if f"#{name}," in hidden}
    assert ".wrap { max-width: none;" in style and ".scroll { overflow: visible; }" in style
