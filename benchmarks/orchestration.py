"""What Prefect and MLflow add: an adaptation as the worker runs it, and its very jobs bare in one process.

python benchmarks/orchestration.py [--rounds N] [--tokens N]

The servers are those of docker/compose.yaml (PostgreSQL, S3, passwords), as processes of this machine; see topology.py.
The speed of a virtual machine drifts by a fifth within minutes, and with it the difference of two runs. What is spent
outside the stages, on starting processes, waiting and telling, does not. Hence both, and medians over the rounds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from measure import medians, publish
from prefect.client.schemas.objects import StateType
from topology import ROOT, Topology, missing, running_topology

from mixcpt.config import AdaptConfig, load_config
from mixcpt.stages.jobs import Batch
from mixcpt.stages.worker import worker_command, worker_environment

PRESET = ROOT / "deployments" / "configs" / "demo-mixcpt.yaml"
ALLOWED_FRACTION, ALLOWED_SECONDS = 0.05, 10.0
"""What orchestration may add: a share of the bare stages, and seconds on top."""


def orchestrated(topology: Topology, config: AdaptConfig) -> dict[str, float]:
    """Returns the seconds of a run of the deployment, of its stages as they recorded them, and before its start."""
    run = topology.run_to_its_end("adapt", config)
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
    """Returns the seconds of all stages by the kind of what they made, as their artifacts recorded them."""
    records = [json.loads(path.read_text()) for path in store.glob("*/*/record.json")]
    seconds: Counter[str] = Counter()
    for record in records:
        seconds[record["kind"]] += record["seconds"]
    del seconds["run"]
    return dict(seconds)


def bare(config: AdaptConfig, folder: Path) -> dict[str, float]:
    """Returns the seconds that the jobs of a run take in one process, start and imports included."""
    written = sorted((Path(config.runtime.store) / "work" / "batches").glob("*/job.json"))
    jobs = tuple(job for path in written for job in Batch.read(path).jobs)
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
    """Returns all seconds of one run and of its bare repetition, each with a store of its own."""
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
    """Returns the seconds of CPU that this process and all below it have used, those that have ended included."""
    ours = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(sum(process.cpu_times()[:4]) for process in ours)


ROWS = {
    "stages, bare in one process": "bare_seconds",
    "stages of the flow, as recorded": "stage_seconds",
    "the flow, on PostgreSQL and S3": "flow_seconds",
    "added to the bare stages": "added_seconds",
    "of it outside the stages": "added_outside_seconds",
    "allowed: 5 % + 10 s": "allowed_seconds",
    "before its start, in the worker's queue": "waited_seconds",
    "CPU of the jobs, bare": "bare_cpu_seconds",
    "CPU of the flow, servers and worker included": "flow_cpu_seconds",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=900_000, help="tokens trained on; the demo's own number")
    arguments = parser.parse_args()
    if lacking := missing():
        raise SystemExit(f"not on this machine: {lacking}; docs/containers.md says where it comes from")
    with TemporaryDirectory() as folder, running_topology(Path(folder)) as topology:
        rounds = [one_round(topology, number, arguments.tokens) for number in range(arguments.rounds)]
    found = medians(rounds)
    rows = [(label, f"{found[key]:.1f} s") for label, key in ROWS.items()]
    result: dict[str, Any] = {**found, "kept": found["added_seconds"] <= found["allowed_seconds"], "rounds": rounds}
    publish("orchestration-cpu", ("what", "seconds"), rows, result, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
