"""Inputs of the runs and removed records, read from their corpora, mixtures and selections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.curation.corpus_report import CorpusReport, RemovedRecords, SourceReport
from mixcpt.mixture.account import MixtureAccount
from mixcpt.records.run import RunResult
from mixcpt.report.view import first_rows, read_json, sample_rows, shared
from mixcpt.store.artifacts import ArtifactRef

_EXAMPLES_PER_GROUP = 3
_SELECTED_SHOWN = 5

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class CorpusView:
    """One corpus and the runs that use it."""

    runs: Sequence[str]
    sources: Mapping[str, SourceReport]
    removals: Sequence[RemovedRecords]
    removed: Mapping[tuple[str, str], Sequence[Row]]
    """Examples of removed records by source and step."""
    quarantined: Mapping[tuple[str, str], Sequence[Row]]
    """Examples of quarantined records by source and reason."""

    @property
    def num_quarantined(self) -> int:
        return sum(source.quarantined for source in self.sources.values())


@dataclass(frozen=True)
class MixtureView:
    """One mixture and the runs that use it."""

    runs: Sequence[str]
    account: MixtureAccount


@dataclass(frozen=True)
class SelectionView:
    """One selection of alignment samples and the runs that use it."""

    runs: Sequence[str]
    strategy: str
    pools: Mapping[str, Row]
    samples: Mapping[str, Sequence[Row]]
    """Samples with the highest scores, by pool."""


def corpora(runs: Sequence[RunResult]) -> list[CorpusView]:
    """Return the distinct corpora of the runs."""
    return [_corpus(ref, names) for ref, names in shared(runs, "corpus")]


def mixtures(runs: Sequence[RunResult]) -> list[MixtureView]:
    """Return the distinct mixtures of the runs."""
    return [MixtureView(names, MixtureAccount.of(ref)) for ref, names in shared(runs, "mixture")]


def selections(runs: Sequence[RunResult]) -> list[SelectionView]:
    """Return the distinct selections of the runs."""
    return [_selection(ref, names) for ref, names in shared(runs, "selection")]


def _corpus(ref: ArtifactRef, names: Sequence[str]) -> CorpusView:
    report = CorpusReport.of(ref)
    removed, quarantine = ref.file("removed.parquet"), ref.file("quarantine.parquet")
    return CorpusView(
        runs=names,
        sources=report.sources,
        removals=sorted(report.removed, key=lambda entry: -entry.records),
        removed=sample_rows(removed, lambda row: (row["source"], row["step"]), _EXAMPLES_PER_GROUP),
        quarantined=sample_rows(quarantine, lambda row: (row["source"], row["reason"]), _EXAMPLES_PER_GROUP),
    )


def _selection(ref: ArtifactRef, names: Sequence[str]) -> SelectionView:
    report = read_json(ref, "report.json")
    samples = {
        pool: first_rows(ref.file(name), _SELECTED_SHOWN)
        for pool, name in (("instructions", "sft.parquet"), ("preferences", "dpo.parquet"))
        if ref.file(name).is_file()
    }
    return SelectionView(runs=names, strategy=report["strategy"], pools=report["pools"], samples=samples)
