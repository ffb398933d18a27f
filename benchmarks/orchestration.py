"""Time that Prefect and MLflow add: a run of the deployment, and its jobs in one process without a flow ("bare").

python benchmarks/orchestration.py [--rounds N] [--tokens N]

The services of docker/compose.yaml (PostgreSQL, S3, passwords) run as processes of this machine; see topology.py. The
speed of a virtual machine drifts by a fifth within minutes, and so does the difference of two runs. The time outside
the stages (starting processes, waiting, logging) does not drift. The table shows both, as medians over the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from measure import medians, publish
from prefect.client.schemas.objects import StateType
from topology import ROOT, Topology, missing, running_topology

from mixcpt.config import AdaptConfig, load_config
from mixcpt.stages.jobs import Batch
from mixcpt.stages.launching import worker_command, worker_environment

PRESET = ROOT / "deployments" / "configs" / "demo-mixcpt.yaml"
ALLOWED_FRACTION, ALLOWED_SECONDS = 0.05, 10.0
"""Limits of the added time: a share of the bare stages, and additional seconds."""


def orchestrated(topology: Topology, config: AdaptConfig) -> dict[str, float]:
    """Run the deployment, and return the seconds of the run, of its stages as recorded, and before its start."""
    run = topology.run_to_its_end("adapt/adapt-advanced", config)
    if run.state_type != StateType.COMPLETED:
        raise SystemExit(f"the run became {run.state}")
    seconds, waited = run.total_run_time.total_seconds(), run.estimated_start_time_delta.total_seconds()
    kinds = stage_seconds(Path(config.runtime.store))
    stages = sum(kinds.values())
    return {
        "flow_seconds": seconds,
        "stage_seconds": stages,
        "outside_seconds": seconds - stages,
        "waited_seconds": waited,
        **{f"flow_{kind}_seconds": spent for kind, spent in kinds.items()},
    }


def stage_seconds(store: Path) -> dict[str, float]:
    """Return the recorded seconds of all stages, by kind of artifact."""
    records = [json.loads(path.read_text()) for path in store.glob("*/*/record.json")]
    seconds: Counter[str] = Counter()
    for record in records:
        seconds[record["kind"]] += record["seconds"]
    del seconds["run"]
    return dict(seconds)


def bare(config: AdaptConfig, folder: Path) -> dict[str, float]:
    """Run the jobs of a finished run in one process, and return their seconds, with start and imports."""
    written = sorted((Path(config.runtime.store) / "work" / "batches").glob("*/job.json"))
    jobs = tuple(chain.from_iterable(Batch.read(path).jobs for path in written))
    batch = Batch.in_store(jobs, folder)
    batch.write()
    started, cpu = time.perf_counter(), sum(psutil.Process().cpu_times()[2:4])
    command, environment = worker_command(batch), {**os.environ, **worker_environment(config.runtime.num_threads)}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    seconds = time.perf_counter() - started
    used = sum(psutil.Process().cpu_times()[2:4]) - cpu  # of children that have ended
    kinds = stage_seconds(folder)
    outside = seconds - sum(kinds.values())
    by_kind = {f"bare_{kind}_seconds": spent for kind, spent in kinds.items()}
    return {"bare_seconds": seconds, "bare_outside_seconds": outside, "bare_cpu_seconds": used, **by_kind}


def one_round(topology: Topology, number: int, tokens: int) -> dict[str, float]:
    """Do one run and its bare repetition, each with its own store, and return the seconds of both."""
    place = topology.folder / f"round-{number}"
    changes = [f"runtime.store={place / 'flow'}", f"mixture.total_tokens={tokens}", f"seed={number}"]
    config = load_config(PRESET, changes)
    print(f"round {number + 1}: the flow, then its jobs bare", file=sys.stderr, flush=True)
    before = cpu_seconds()
    seconds = orchestrated(topology, config)
    seconds["flow_cpu_seconds"] = cpu_seconds() - before
    seconds |= bare(config, place / "bare")
    seconds["added_seconds"] = seconds["flow_seconds"] - seconds["bare_seconds"]
    seconds["added_outside_seconds"] = seconds["outside_seconds"] - seconds["bare_outside_seconds"]
    seconds["allowed_seconds"] = ALLOWED_FRACTION * seconds["bare_seconds"] + ALLOWED_SECONDS
    return seconds


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and its descendants, including ended ones."""
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in ours)


ROWS = {
    "stages, bare in one process": "bare_seconds",
    "stages of the flow, as recorded": "stage_seconds",
    "the flow, on PostgreSQL and S3": "flow_seconds",
    "added to the bare stages": "added_seconds",
    "of this, outside the stages": "added_outside_seconds",
    "allowed: 5 % + 10 s": "allowed_seconds",
    "before its start, in the worker's queue": "waited_seconds",
    "CPU of the jobs, bare": "bare_cpu_seconds",
    "CPU of the flow, servers and worker included": "flow_cpu_seconds",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=900_000, help="training tokens; default: those of the demo")
    arguments = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"missing on this machine: {lacking}; docs/containers.md explains how to install it")
    with TemporaryDirectory() as folder, running_topology(Path(folder)) as topology:
        rounds = [one_round(topology, number, arguments.tokens) for number in range(arguments.rounds)]
    middle = medians(rounds)
    rows = [(label, f"{middle[key]:.1f} s") for label, key in ROWS.items()]
    result: dict[str, Any] = {**middle, "kept": middle["added_seconds"] <= middle["allowed_seconds"], "rounds": rounds}
    publish("orchestration-cpu", ("what", "seconds"), rows, result, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
