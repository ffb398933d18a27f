"""Curation from end to end: open the sources, parse, clean, hold out, remove duplicates, publish."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

from mixcpt.config import CurationConfig, Pool
from mixcpt.curation.passages import hold_out
from mixcpt.curation.records import DOCUMENT_POOLS, TEXT_NAMES, Defect, Record
from mixcpt.curation.report import Corpus
from mixcpt.curation.sources import OpenSource, curation_key, open_sources
from mixcpt.curation.steps import Duplicates, MinLength, Normalise, Repeats, Step, content_key, run_steps, split_samples
from mixcpt.errors import DataError
from mixcpt.store.artifacts import ArtifactRef, ArtifactStore, Metrics

_log = logging.getLogger("mixcpt.curation")


def curate(config: CurationConfig, *, seed: int, store: ArtifactStore) -> ArtifactRef:
    """Produce the corpus and return its reference.

    It contains clean records by pool, held-out documents, and all rejected records with their reasons.

    Raises:
        ConfigError: If a source is missing or of an unknown kind.
        DataError: If no document of the domain is usable.
    """
    sources = open_sources(config)
    built: list[Corpus] = []

    def build(folder: Path) -> Metrics:
        corpus = clean(config, sources, seed)
        require_domain(corpus)
        built.append(corpus)
        return asdict(corpus.write(folder)) | {"removed": len(corpus.removed)}

    places = {source.config.name: list(source.places) for source in sources}
    ref = store.produce(curation_key(config, sources, seed), build, lineage={"sources": places})
    for corpus in built:
        for line in corpus.lines(ref.directory):
            _log.log(logging.WARNING if line.is_loss else logging.INFO, "%s", line.text)
    return ref


def clean(
    config: CurationConfig, sources: Sequence[OpenSource], seed: int, known: Mapping[bytes, str] = MappingProxyType({})
) -> Corpus:
    """Return the clean records of the sources, without writing them.

    Args:
        seed: Seed of the choice of held-out documents.
        known: Names of texts that another corpus contains, by `content_key`; they are removed.
    """
    corpus = Corpus(sources=sources)
    pools = _read(sources, corpus)
    cleaning: list[Step] = [Normalise()] if config.normalise else []
    cleaning.append(MinLength(config.min_characters))
    if known:
        cleaning.append(Repeats(known, "registered already as", "registered"))
    training: dict[Pool, list[Record]] = {}
    for pool, records in pools.items():
        training[pool] = list(run_steps(records, cleaning, corpus.removed.append))
        heldout: list[Record] = []
        if pool in DOCUMENT_POOLS:
            training[pool], heldout = _hold_out(training[pool], config.heldout_fraction, seed, corpus)
        elif pool == "instructions" and config.heldout_instructions:
            training[pool], heldout = split_samples(training[pool], config.heldout_instructions, seed)
        if heldout:
            duplicates = [Duplicates("duplicate of held-out")] if config.deduplicate else []
            corpus.heldout += run_steps(heldout, duplicates, corpus.removed.append)
    heldout_ids = {content_key(record): record.id for record in corpus.heldout}
    without_heldout = Repeats(heldout_ids, "duplicate of held-out", "heldout")
    for records in training.values():
        steps: list[Step] = [without_heldout, *([Duplicates()] if config.deduplicate else [])]
        corpus.kept += run_steps(records, steps, corpus.removed.append)
    return corpus


def _read(sources: Sequence[OpenSource], corpus: Corpus) -> dict[Pool, list[Record]]:
    """Read all sources and return the usable records by pool; the others are added to the quarantine."""
    pools: dict[Pool, list[Record]] = {pool: [] for pool in TEXT_NAMES}
    for source in sources:
        name = source.config.name
        for record in source.records():
            corpus.num_read[name] += 1
            if isinstance(record, Defect):
                corpus.quarantined.append((name, record))
            else:
                pools[record.pool].append(record)
    return pools


def _hold_out(records: list[Record], fraction: float, seed: int, corpus: Corpus) -> tuple[list[Record], list[Record]]:
    """Return the training and the held-out documents of a pool; passages, if it has too few documents.

    A document that is split counts as several records that were read.
    """
    parts = hold_out(records, fraction, seed)
    for name, number in Counter(record.source for record in [*parts.training, *parts.heldout]).items():
        corpus.num_read[name] += number - sum(record.source == name for record in records)
    return parts.training, parts.heldout


def require_domain(corpus: Corpus) -> None:
    """Raise `DataError` if no document of the domain is left; its text has counts and the first reasons."""
    if any(record.pool == "domain" for record in corpus.kept):
        return
    domain = [source.config.name for source in corpus.sources if source.config.pool == "domain"]
    num_read = sum(corpus.num_read[name] for name in domain)
    defects = [f"{source}: {defect}" for source, defect in corpus.quarantined if source in domain]
    reasons = [str(removal) for removal in corpus.removed if removal.verdict.record.pool == "domain"]
    first = "".join(f"\n  {line}" for line in (defects[:3] + reasons[:3]))
    raise DataError(
        f"no document of the domain ({', '.join(domain)}) is usable: "
        f"{num_read} records read, {len(defects)} quarantined, {len(reasons)} removed{first}",
        "check the files and, for records, the name of the text field (fields.text)",
    )
