"""Damaged and unusual inputs: each must be used or refused, and never crash, hang or lose a record silently.

    python benchmarks/bad_inputs.py [--cases 5000] [--seed 0] [--processes 2] [--kinds questions templates ...]

Every case starts from a valid input of its kind and changes it at random: bytes are flipped, cut, repeated or encoded
differently, and fields, names and values are replaced by unusual ones. Outcomes:

* `used`: accepted without a rejected record.
* `set aside`: accepted; every rejected record has its file, line and reason.
* `refused`: a `MixcptError`, or a finding of the checks before a run.
* `crash`: any other exception, also one after the checks found nothing. Must be 0.
* `hang`: more than 30 seconds. Must be 0.
* `loss`: a record that is neither used, nor set aside, nor refused. Must be 0.

The table also shows the peak memory of the processes and the most frequent messages. The exit code is 1 if a case
crashed, hung or lost a record; the failing cases can be repeated by kind and number with `--only KIND:NUMBER`.
"""

import argparse
import logging
import multiprocessing
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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType

from bad_input_kinds import KINDS, Loss
from measure import publish
from rich.console import Console

from mixcpt.errors import MixcptError

_LIMIT_SECONDS = 30
_BATCH = 50
_FAILURES = ("crash", "hang", "loss")
OUTCOMES = ("used", "set aside", "refused", *_FAILURES)


class _Hang(BaseException):
    """A case took too long; no handler of the code under test catches it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Result of one case."""

    kind: str
    number: int
    outcome: str
    message: str = ""
    """Message of a refusal, or traceback of a failure."""
    peak_bytes: int = 0
    """Peak memory of the process so far."""


def run_case(kind: str, number: int, seed: int) -> Outcome:
    """Run one case in a temporary folder; the case depends only on kind, number and seed."""
    import torch  # noqa: F401 before the time of the case starts
    import transformers  # noqa: F401

    rng = random.Random(f"{seed}/{kind}/{number}")
    folder = Path(tempfile.mkdtemp(prefix="bad-input-"))
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
    except Exception:  # noqa: BLE001 a crash is a finding of this benchmark
        message = traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Outcome(kind=kind, number=number, outcome=outcome, message=message, peak_bytes=peak_bytes)


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(signum: int, frame: FrameType | None) -> None:
        raise _Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(_LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _run_batch(cases: Sequence[tuple[str, int]], seed: int) -> list[Outcome]:
    logging.disable(logging.ERROR)
    warnings.simplefilter("ignore")
    return [run_case(kind, number, seed) for kind, number in cases]


def run_cases(cases: Iterable[tuple[str, int]], seed: int, processes: int) -> Iterator[Outcome]:
    """Run all cases and yield their outcomes in the order of the cases."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        remaining = iter(cases)
        batches = iter(lambda: list(islice(remaining, _BATCH)), [])
        futures = [pool.submit(_run_batch, batch, seed) for batch in batches]
        for done, future in enumerate(futures, start=1):
            yield from future.result()
            print(f"\r{done * _BATCH} cases", end="", file=sys.stderr)
    print(file=sys.stderr)


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
    console = Console(width=140)
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        shapes = Counter(shape_of(o.message) for o in outcomes if o.kind == kind and o.outcome == "refused")
        console.print(f"{kind}: the most frequent refusals", style="bold")
        for shape, count in shapes.most_common(8):
            console.print(f"  {count:>5}  {shape}", markup=False, highlight=False)
    for outcome in failures[:40]:
        last = outcome.message.strip().splitlines()[-1:]
        console.print(f"{outcome.outcome} {outcome.kind}:{outcome.number}  {''.join(last)[:200]}", markup=False)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--only", default="", metavar="KIND:NUMBER", help="repeat one case and print its message")
    return parser.parse_args()


def main() -> int:
    """Run the cases, print the table, write the counts, and return 1 if a case failed."""
    arguments = _parse()
    if arguments.only:
        kind, _, number = arguments.only.partition(":")
        outcome = run_case(kind, int(number), arguments.seed)
        print(outcome.outcome, outcome.message, sep="\n")
        return int(outcome.outcome in _FAILURES)
    share = -(-arguments.cases // len(arguments.kinds))
    cases = [(kind, number) for number in range(share) for kind in arguments.kinds]
    outcomes = list(run_cases(cases, arguments.seed, arguments.processes))
    failures = [outcome for outcome in outcomes if outcome.outcome in _FAILURES]
    _print_messages(outcomes, failures)
    counts = Counter((outcome.kind, outcome.outcome) for outcome in outcomes)
    rows = [[kind, *(str(counts[kind, name]) for name in OUTCOMES)] for kind in arguments.kinds]
    peak = max(outcome.peak_bytes for outcome in outcomes)
    result = {"cases": len(cases), "seed": arguments.seed, "peak_mib": peak // 2**20, "failures": len(failures)}
    publish("bad-inputs-cpu", ("input", *OUTCOMES), rows, result, rounds=1)
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
