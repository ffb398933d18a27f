"""What went into the runs and what was taken out of it, read from their corpora and mixtures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.curation.corpus_report import CorpusReport, PoolReport, RemovedRecords, SourceReport
from mixcpt.mixture.account import MixtureAccount
from mixcpt.records.run import RunResult
from mixcpt.report.view import first_rows, read_json, sample_rows, shared
from mixcpt.store.artifacts import ArtifactRef

_EXAMPLES_PER_GROUP = 3
_SELECTED_SHOWN = 5

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Specimens:
    """Some of the records that a step removed from a source, or that were quarantined there."""

    source: str
    why: str
    rows: Sequence[Row]


@dataclass(frozen=True)
class CorpusView:
    """One corpus and the runs that read it."""

    runs: Sequence[str]
    ref: ArtifactRef
    pools: Mapping[str, PoolReport]
    sources: Mapping[str, SourceReport]
    removals: Sequence[RemovedRecords]
    removed: Sequence[Specimens]
    quarantined: Sequence[Specimens]

    @property
    def num_quarantined(self) -> int:
        return sum(source.quarantined for source in self.sources.values())


@dataclass(frozen=True)
class MixtureView:
    """One mixture and the runs that trained on it."""

    runs: Sequence[str]
    account: MixtureAccount


@dataclass(frozen=True)
class SelectionView:
    """The samples that taught one or more runs the chat form."""

    runs: Sequence[str]
    strategy: str
    pools: Mapping[str, Row]
    samples: Mapping[str, Sequence[Row]]
    """The best-scored samples of each pool."""


def corpora(runs: Sequence[RunResult]) -> list[CorpusView]:
    """Returns each corpus that a run read, once."""
    return [_corpus(ref, names) for ref, names in shared(runs, "corpus")]


def mixtures(runs: Sequence[RunResult]) -> list[MixtureView]:
    """Returns each mixture that a run trained on, once."""
    return [MixtureView(names, MixtureAccount.of(ref)) for ref, names in shared(runs, "mixture")]


def selections(runs: Sequence[RunResult]) -> list[SelectionView]:
    """Returns each selection that a run aligned with, once."""
    return [_selection(ref, names) for ref, names in shared(runs, "selection")]


def _corpus(ref: ArtifactRef, names: Sequence[str]) -> CorpusView:
    report = CorpusReport.of(ref)
    removed = sample_rows(
        ref.file("removed.parquet"), lambda row: (row["source"], row["step"]), per_group=_EXAMPLES_PER_GROUP
    )
    quarantined = sample_rows(
        ref.file("quarantine.parquet"), lambda row: (row["source"], row["reason"]), per_group=_EXAMPLES_PER_GROUP
    )
    removals = sorted(report.removed, key=lambda entry: -entry.records)
    return CorpusView(names, ref, report.pools, report.sources, removals, _specimens(removed), _specimens(quarantined))


def _specimens(groups: Mapping[tuple[str, str], Sequence[Row]]) -> list[Specimens]:
    return [Specimens(source, why, rows) for (source, why), rows in groups.items()]


def _selection(ref: ArtifactRef, names: Sequence[str]) -> SelectionView:
    report = read_json(ref, "report.json")
    samples = {
        pool: first_rows(ref.file(name), _SELECTED_SHOWN)
        for pool, name in (("instructions", "sft.parquet"), ("preferences", "dpo.parquet"))
        if ref.file(name).is_file()
    }
    return SelectionView(names, report["strategy"], report["pools"], samples)
