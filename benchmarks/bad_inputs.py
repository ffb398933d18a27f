"""Damaged and unusual inputs: each must be used or refused, and never crash, hang or lose a record silently.

    python -m benchmarks.bad_inputs [--cases 5000] [--seed 0] [--processes 2] [--kinds questions templates ...]
                                    [--write docs/bad-inputs.md]

Every case starts from a valid input of its kind and changes it at random: bytes are flipped, cut, repeated or encoded
differently, and fields, names and values are replaced by unusual ones. Outcomes:

* `used`: accepted without a rejected record or warning.
* `warned`: accepted with a warning.
* `set aside`: accepted; every rejected record has its file, line and reason.
* `refused`: a `MixcptError`, or a finding of the checks before a run.
* `crash`: any other exception, also one after the checks found nothing, or the end of the process. Must be 0.
* `hang`: more than 60 seconds of processor time, or 10 minutes. Must be 0.
* `loss`: a record or value that is neither used, nor set aside, nor refused. Must be 0.
* `memory`: more than 3 GiB. Must be 0.

The table also shows the refusals that name a setting or file, the peak memory and an example. The exit code is 1 if a
case failed. Failed cases can be repeated by kind and number with `--only KIND:NUMBER`. `--write` puts the table into a
page, between the lines with `bad-inputs:begin` and `bad-inputs:end`, or creates the page.
"""

import argparse
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from types import FrameType

from benchmarks.bad_input_damage import Loss
from benchmarks.bad_input_kinds import KINDS
from benchmarks.bad_input_page import names_place, print_table, rows_of, write_page
from benchmarks.measure import publish
from mixcpt.errors import MixcptError

_LIMIT_SECONDS = 60
"""Processor time of a case, so that other work on the machine does not look like a hang."""
_WALL_SECONDS = 600
_LIMIT_BYTES = 3 * 2**30
_FAILURES = ("crash", "hang", "loss", "memory")

Case = tuple[str, int]


class _Hang(BaseException):
    """A case took too long; no handler of the code under test catches it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one case."""

    kind: str
    number: int
    outcome: str
    message: str = ""
    """Message of a refusal or warning, or traceback of a failure."""
    peak_bytes: int = 0
    """Peak memory of the process during the case."""
    seconds: float = 0.0
    """Processor time of the case."""


def run_case(kind: str, number: int, seed: int) -> Outcome:
    """Run one case in a temporary folder; the case depends only on kind, number and seed."""
    import torch  # noqa: F401 before the time of the case starts
    import transformers  # noqa: F401

    rng = random.Random(f"{seed}/{kind}/{number}")
    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
    _reset_peak()
    started = _processor_seconds()
    outcome, message = "crash", ""
    try:
        with _time_limit():
            outcome, message = KINDS[kind](folder, rng)
    except MixcptError as error:
        outcome, message = "refused", str(error)
    except _Hang:
        outcome, message = "hang", traceback.format_exc()
    except Loss as loss:
        outcome, message = "loss", str(loss)
    except BaseException as error:  # a crash is a finding of this benchmark, and a panic is no `Exception`
        if isinstance(error, KeyboardInterrupt):
            raise
        message = traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = _processor_seconds() - started
    done = Outcome(
        kind=kind, number=number, outcome=outcome, message=message, peak_bytes=_peak_bytes(), seconds=seconds
    )
    if done.peak_bytes > _LIMIT_BYTES and outcome not in _FAILURES:
        return replace(done, outcome="memory", message=f"{done.peak_bytes / 2**30:.1f} GiB; {outcome}: {message}")
    return done


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size so far


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise `_Hang` after the time of a case; a call that never returns to Python ends the process a little later."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise _Hang

    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(_processor_seconds()) + 2 * _LIMIT_SECONDS, hard))
    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_PROF, _LIMIT_SECONDS)
    signal.alarm(_WALL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


def _prepare() -> None:
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ["HF_HUB_OFFLINE"] = "1"


def run_cases(cases: Sequence[Case], seed: int, processes: int) -> Iterator[Outcome]:
    """Run all cases and yield their outcomes; after the end of a process, each suspect runs in a process of its own."""
    remaining = list(cases)
    while remaining:
        done: set[Case] = set()
        for outcome in _until_broken(remaining, seed, processes):
            done.add((outcome.kind, outcome.number))
            yield outcome
            print(f"\r{len(cases) - len(remaining) + len(done)} cases", end="", file=sys.stderr)
        remaining = [case for case in remaining if case not in done]
        suspects = remaining[: 2 * processes + 1]
        for case in suspects:
            found = list(_until_broken([case], seed, 1))
            message = "the process of the case ended: out of memory, out of time, or a signal"
            yield found[0] if found else Outcome(kind=case[0], number=case[1], outcome="crash", message=message)
        remaining = remaining[len(suspects) :]
    print(file=sys.stderr)


def _until_broken(cases: Sequence[Case], seed: int, processes: int) -> Iterator[Outcome]:
    """Yield the outcomes of cases until a process ends before its case does."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare) as pool:
        futures = [pool.submit(run_case, kind, number, seed) for kind, number in cases]
        for future in futures:
            try:
                yield future.result()
            except BrokenProcessPool:
                continue


def shape_of(message: str) -> str:
    """Return the first line of a message without names, paths and numbers, to count messages of one shape."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    line = lines[1] if "found before any work" in lines[0] and len(lines) > 1 else lines[0]
    line = re.sub(r"(?:/[^\s:,;'\"]+)+", "PATH", line)
    line = re.sub(r"'[^']*'|\"[^\"]*\"", "'...'", line)
    return re.sub(r"-?\d[\d.,e+-]*", "N", line)[:110]


def _print_messages(outcomes: Sequence[Outcome], failures: Sequence[Outcome]) -> None:
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        refused = [outcome for outcome in outcomes if outcome.kind == kind and outcome.outcome == "refused"]
        print(f"{kind}: the most frequent refusals")
        for shape, count in Counter(shape_of(outcome.message) for outcome in refused).most_common(8):
            print(f"  {count:>5}  {shape}")
        for outcome in [outcome for outcome in refused if not names_place(outcome.message)][:3]:
            print(f"  names no setting or file: {kind}:{outcome.number}  {outcome.message[:200]!r}")
    for outcome in failures[:60]:
        last = outcome.message.strip().splitlines()[-1:]
        print(f"{outcome.outcome} {outcome.kind}:{outcome.number}  {''.join(last)[:200]}")
    for title, key in (("memory", "peak_bytes"), ("time", "seconds")):
        largest = max(outcomes, key=partial(_value, key))
        print(f"most {title}: {largest.kind}:{largest.number}, {largest.peak_bytes >> 20} MiB, {largest.seconds:.1f} s")


def _value(key: str, outcome: Outcome) -> float:
    return float(getattr(outcome, key))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", default="", metavar="KIND:NUMBER", help="repeat one case and print its message")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the table into this page")
    return parser.parse_args()


def main() -> int:
    """Run the cases, print the table, write the counts, and return 1 if a case failed."""
    arguments = _parse()
    if arguments.only:
        _prepare()
        kind, _, number = arguments.only.partition(":")
        outcome = run_case(kind, int(number), arguments.seed)
        print(outcome.outcome, outcome.message, f"{outcome.peak_bytes >> 20} MiB, {outcome.seconds:.1f} s", sep="\n")
        return int(outcome.outcome in _FAILURES)
    share = -(-arguments.cases // len(arguments.kinds))
    cases = [(kind, number) for number, kind in product(range(share), arguments.kinds)]
    outcomes = list(run_cases(cases, arguments.seed, arguments.processes))
    failures = [outcome for outcome in outcomes if outcome.outcome in _FAILURES]
    _print_messages(outcomes, failures)
    columns, rows = rows_of(outcomes, _FAILURES)
    peak = max(outcome.peak_bytes for outcome in outcomes)
    result = {"cases": len(cases), "seed": arguments.seed, "peak_mib": peak // 2**20, "failures": len(failures)}
    if arguments.cases >= 1000:
        publish("bad-inputs-cpu", columns, rows, result, rounds=1)
    else:
        print_table(columns, rows, result)
    if arguments.write:
        write_page(arguments.write, columns, rows, result)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
