"""Re-adaptation on running servers: five rounds by event, a harmful corpus, an approval, and a rollback.

python benchmarks/rounds.py [--store FOLDER]

It works as a user would: `mixcpt deploy`, `mixcpt corpus add`, `mixcpt rollback`, the form of a paused run. About ten
minutes on two cores; docs/readapt.md has the table that it prints.
"""

import argparse
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml
from measure import publish
from prefect.client.schemas.objects import FlowRun, StateType
from running import ROOT, Site, running_site

from mixcpt.config import ReadaptConfig, load_settings
from mixcpt.records.round import load_rounds
from mixcpt.report.rounds import markdown_rounds
from mixcpt.store.artifacts import ArtifactStore

ROUNDS = ROOT / "deployments" / "rounds"
SETTINGS = ROUNDS / "closed-world.yaml"
WIDER = {"keeps-general": -0.15, "keeps-since-base": -0.4}
"""Wider bounds for the second attempt with the refused corpus, which a person then decides on."""


def one_round(site: Site, corpus: str = "") -> tuple[str, ...]:
    """Add a corpus and wait for its round, or start a round by hand without one; return a line about it."""
    name = corpus or "world-0"
    started = datetime.now(UTC)
    if corpus:
        site.mixcpt("corpus", "add", str(ROUNDS / f"{corpus}.yaml"))
        run = site.started_since(started)
    else:
        run = site.start()
    done = site.wait(run)
    assert done.start_time
    waited = done.start_time - started
    return printed_line(site, name, f"{waited.total_seconds():.0f} s", done)


def approved_round(site: Site, folder: Path, again: str) -> tuple[str, ...]:
    """Run a round that waits for approval, answer without a name and then with one, and return a line about it."""
    settings = load_settings(ReadaptConfig, SETTINGS)
    gates = [gate.model_copy(update={"at_least": WIDER.get(gate.name, gate.at_least)}) for gate in settings.gates]
    with_approval = settings.model_copy(update={"approval": "human", "again": (again,), "gates": tuple(gates)})
    path = folder / "with-approval.yaml"
    path.write_text(yaml.safe_dump(with_approval.model_dump(mode="json")))
    site.mixcpt("deploy", "--readapt", str(path))
    run = site.start()
    site.wait(run, StateType.PAUSED)
    nameless = site.answer(run, promote=True)
    if nameless != "REJECT":
        raise SystemExit(f"an answer without a name was not refused: {nameless}")
    site.answer(run, promote=True, by="the owner", because="the fifth world is worth it")
    return printed_line(site, f"{again}, by approval", "", site.wait(run))


def printed_line(site: Site, name: str, waited: str, done: FlowRun) -> tuple[str, ...]:
    """Print a line about the last round, and return it."""
    last = load_rounds(ArtifactStore(site.store), load_settings(ReadaptConfig, SETTINGS).name)[-1]
    line = (name, waited, f"{done.total_run_time.total_seconds():.0f} s", last.decision, last.reason)
    print(*line, sep=" | ", file=sys.stderr, flush=True)
    return line


def rolled_back(site: Site) -> tuple[str, ...]:
    """Roll back, and return a line about it."""
    started = time.monotonic()
    printed = site.mixcpt("rollback", "--because", "answers too long").splitlines()
    (serves,) = [line for line in printed if line.startswith("champion of")]
    return ("rollback", "", f"{time.monotonic() - started:.0f} s", "", serves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="folder of the store and the report; default: a temporary folder")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, running_site((arguments.store or Path(folder) / "store").resolve()) as site:
        site.mixcpt("deploy", "--readapt", str(SETTINGS))
        lines = [one_round(site)]
        lines += [one_round(site, corpus) for corpus in ("world-1", "world-2", "world-3", "world-4")]
        table = markdown_rounds(load_rounds(ArtifactStore(site.store), load_settings(ReadaptConfig, SETTINGS).name))
        lines.append(one_round(site, "contradicting-news"))
        lines.append(approved_round(site, Path(folder), "world-4"))
        lines.append(rolled_back(site))
    print(table)
    columns = ("corpus", "from corpus add to start", "round", "decision", "reason")
    publish("rounds-cpu", columns, lines, {"rounds": table}, rounds=len(lines))


if __name__ == "__main__":
    main()
