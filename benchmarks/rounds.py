"""Re-adaptation on a running stack: five rounds by event, a corpus that damages, an approval, and the way back.

python benchmarks/rounds.py [--store FOLDER]

Everything is asked for as people ask for it: `mixcpt deploy`, `mixcpt corpus add`, `mixcpt rollback`, the form of a
paused run. About ten minutes on two cores; docs/readapt.md has the table that it prints.
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

from mixcpt.config import load_readapt
from mixcpt.records.round import load_rounds
from mixcpt.report.rounds import markdown_rounds
from mixcpt.store.artifacts import ArtifactStore

ROUNDS = ROOT / "deployments" / "rounds"
SETTINGS = ROUNDS / "closed-world.yaml"
WIDER = {"keeps-general": -0.15, "keeps-since-base": -0.4}
"""Bounds under which the corpus that was refused is tried again, for somebody to decide."""


def one_round(site: Site, corpus: str = "") -> tuple[str, ...]:
    """Returns a line about a round: by event after a corpus was added, or by hand where there is none."""
    name = corpus or "world-0"
    asked = datetime.now(UTC)
    if corpus:
        site.mixcpt("corpus", "add", str(ROUNDS / f"{corpus}.yaml"))
        run = site.started_since(asked)
    else:
        run = site.start()
    done = site.wait(run)
    assert done.start_time
    waited = done.start_time - asked
    return told(site, name, f"{waited.total_seconds():.0f} s", done)


def approved_round(site: Site, folder: Path, again: str) -> tuple[str, ...]:
    """Returns a line about a round that waits for somebody: an answer without a name first, then one with it."""
    settings = load_readapt(SETTINGS)
    gates = [gate.model_copy(update={"at_least": WIDER.get(gate.name, gate.at_least)}) for gate in settings.gates]
    asking = settings.model_copy(update={"approval": "human", "again": (again,), "gates": tuple(gates)})
    path = folder / "asking.yaml"
    path.write_text(yaml.safe_dump(asking.model_dump(mode="json")))
    site.mixcpt("deploy", "--readapt", str(path))
    run = site.start()
    site.wait(run, StateType.PAUSED)
    nameless = site.answer(run, promote=True)
    if nameless != "REJECT":
        raise SystemExit(f"an answer without a name is not refused: {nameless}")
    site.answer(run, promote=True, by="the owner", because="the fifth world is worth it")
    return told(site, f"{again}, by approval", "", site.wait(run))


def told(site: Site, name: str, waited: str, done: FlowRun) -> tuple[str, ...]:
    """Returns the line about the round that a flow run has ended, after printing it."""
    made = load_rounds(ArtifactStore(site.store), load_readapt(SETTINGS).name)[-1]
    line = (name, waited, f"{done.total_run_time.total_seconds():.0f} s", made.decision, made.reason)
    print(*line, sep=" | ", file=sys.stderr, flush=True)
    return line


def way_back(site: Site) -> tuple[str, ...]:
    started = time.monotonic()
    printed = site.mixcpt("rollback", "--because", "answers too long").splitlines()
    (serves,) = [line for line in printed if line.startswith("champion of")]
    return ("rollback", "", f"{time.monotonic() - started:.0f} s", "", serves)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="folder that stays, with the report; a temporary one otherwise")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder, running_site((arguments.store or Path(folder) / "store").resolve()) as site:
        site.mixcpt("deploy", "--readapt", str(SETTINGS))
        lines = [one_round(site)]
        lines += [one_round(site, corpus) for corpus in ("world-1", "world-2", "world-3", "world-4")]
        table = markdown_rounds(load_rounds(ArtifactStore(site.store), load_readapt(SETTINGS).name))
        lines.append(one_round(site, "contradicting-news"))
        lines.append(approved_round(site, Path(folder), "world-4"))
        lines.append(way_back(site))
    print(table)
    columns = ("corpus", "from corpus add to start", "round", "decision", "reason")
    publish("rounds-cpu", columns, lines, {"rounds": table}, rounds=len(lines))


if __name__ == "__main__":
    main()
