"""Curation from end to end: open the sources, parse, clean, set aside, remove duplicates, publish."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mixcpt.config import CurationConfig, Pool
from mixcpt.curation.heldout import split_heldout
from mixcpt.curation.records import DOCUMENT_POOLS, TEXT_NAMES, Defect, Record
from mixcpt.curation.report import Corpus
from mixcpt.curation.sources import OpenSource, open_sources
from mixcpt.curation.stage import curation_key
from mixcpt.curation.steps import (
    Duplicates,
    MinLength,
    Normalise,
    Repeats,
    Step,
    content_key,
    run_steps,
)
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore

_log = logging.getLogger("mixcpt.curation")


def curate(config: CurationConfig, *, seed: int, store: ArtifactStore) -> ArtifactRef:
    """Returns the corpus: clean records by pool, held-out documents, and whatever was left out with its reason.

    It is identified by the content of the sources, not by where they lie.

    Raises:
        ConfigError: If a source is missing or of an unknown kind.
        DataError: If not one document of the domain is good.
    """
    sources = open_sources(config)
    key = curation_key(config, sources, seed)
    places = {source.config.name: list(source.places) for source in sources}
    return store.produce(key, lambda folder: _build(folder, config, sources, seed), lineage={"sources": places})


def _build(folder: Path, config: CurationConfig, sources: list[OpenSource], seed: int) -> Mapping[str, Any]:
    corpus = clean(config, sources, seed)
    require_domain(corpus)
    report = corpus.write(folder)
    _log.info("kept %d records, removed %d", len(corpus.kept), len(corpus.removed))
    return {name: value for name, value in report.items() if name != "removed"} | {"removed": len(corpus.removed)}


def clean(
    config: CurationConfig, sources: Sequence[OpenSource], seed: int, known: Mapping[bytes, str] = MappingProxyType({})
) -> Corpus:
    """Returns what the sources have, cleaned, held out and told apart, before any of it is written.

    Args:
        config: What cleaning does.
        sources: What is read.
        seed: Of what is held out.
        known: Name of each text that is somewhere else already, by its `content_key`; it is left out.
    """
    corpus = Corpus(sources)
    pools = _read(sources, corpus)
    elsewhere = [Repeats(known, "registered already as", "registered")] if known else []
    training: dict[Pool, list[Record]] = {}
    for pool, records in pools.items():
        training[pool] = list(run_steps(records, [*_cleaning(config), *elsewhere], corpus.removed.append))
        if pool in DOCUMENT_POOLS:
            training[pool], heldout = split_heldout(training[pool], config.heldout_fraction, seed)
            once = [Duplicates("duplicate of held-out")] if config.deduplicate else []
            corpus.heldout += run_steps(heldout, once, corpus.removed.append)
    held = Repeats({content_key(record): record.id for record in corpus.heldout}, "duplicate of held-out", "heldout")
    for records in training.values():
        steps: list[Step] = [held, *([Duplicates()] if config.deduplicate else [])]
        corpus.kept += run_steps(records, steps, corpus.removed.append)
    return corpus


def _read(sources: Sequence[OpenSource], corpus: Corpus) -> dict[Pool, list[Record]]:
    """Returns the good records by pool; the others go into quarantine."""
    pools: dict[Pool, list[Record]] = {pool: [] for pool in TEXT_NAMES}
    for source in sources:
        name = source.config.name
        for record in source.records():
            corpus.read[name] += 1
            if isinstance(record, Defect):
                corpus.quarantined.append((name, record))
            else:
                pools[record.pool].append(record)
        bad = sum(of == name for of, _ in corpus.quarantined)
        _log.log(
            logging.WARNING if bad else logging.INFO, "%s: %d records, %d quarantined", name, corpus.read[name], bad
        )
    return pools


def _cleaning(config: CurationConfig) -> list[Step]:
    """Returns the steps that judge each record by itself."""
    steps: list[Step] = [Normalise()] if config.normalise else []
    return [*steps, MinLength(config.min_characters)]


def require_domain(corpus: Corpus) -> None:
    """Raises `DataError` where no document of the domain is left; it says what became of them."""
    if any(record.pool == "domain" for record in corpus.kept):
        return
    domain = [source.config.name for source in corpus.sources if source.config.pool == "domain"]
    read = sum(corpus.read[name] for name in domain)
    defects = [f"{source}: {defect}" for source, defect in corpus.quarantined if source in domain]
    reasons = [
        f"{removal.verdict.record.id}: removed by {removal.step}: {removal.verdict.reason}"
        for removal in corpus.removed
        if removal.verdict.record.pool == "domain"
    ]
    first = "".join(f"\n  {line}" for line in (defects[:3] + reasons[:3]))
    raise DataError(
        f"not one document of the domain ({', '.join(domain)}) can be used: "
        f"{read} records read, {len(defects)} quarantined, {len(reasons)} removed{first}",
        "check the files and, for records, which field holds the text (fields.text)",
    )
