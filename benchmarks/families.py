"""Trains tiny random models of all families, and compares every loss with a plain loop: `make families`.

    python -m benchmarks.families [--families llama,opt] [--methods cpt,lssd,disc] [--scopes full,lora]
                                  [--processes 2] [--resume] [--write docs/families.md]

Both sides take three steps of AdamW. Outcomes:

* `equal`: all losses agree to five digits; `one document per row` if packed documents would see each other.
* `refused`: a `MixcptError`, which a run reports before any work.
* `differs`, `failed`, `crashed`: the losses disagree, an exception, or the end of the process.
* `not built`: transformers builds no tiny model of the family from its configuration.

Results: benchmarks/results/families-cpu.json, written after every family; outcomes of selected families are merged into
it, and `--resume` leaves out the families that it has. `--write` puts the table into a page, between the lines with
`families:begin` and `families:end`.
"""

import argparse
import gc
import json
import logging
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "families-cpu.json"
METHODS, SCOPES = ("cpt", "lssd", "disc"), ("full", "lora")
BEGIN, END = "<!-- families:begin -->", "<!-- families:end -->"
_MARK = "FAMILY "
_GROUP = 16
"""Families per process; an end of the process stops only one of them."""
_LIMIT_SECONDS = 300.0
"""Longest time for one family, with the start of its process."""
_TOLERANCE = 1e-5

Outcome = dict[str, Any]
"""Outcome of one training: `outcome`, and `difference`, `is_apart` or `reason`."""
Report = Callable[[str, dict[str, Outcome]], None]


def outcomes(family: str, methods: Sequence[str], scopes: Sequence[str]) -> Iterator[tuple[str, Outcome]]:
    """Yield every combination of method and scope, such as `disc lora`, with its outcome; `all` if none is trained."""
    from benchmarks.family_models import built
    from mixcpt.checks.packing import require_causal
    from mixcpt.distill.model import check_model
    from mixcpt.errors import MixcptError

    try:
        base = built(family)
    except Exception as error:  # noqa: BLE001 - architectures fail on small sizes with any error
        yield "all", {"outcome": "not built", "reason": _reason(error)}
        return
    try:
        check_model(base)
        require_causal(base)
    except MixcptError as error:
        yield "all", {"outcome": "refused", "reason": error.problem}
        return
    except Exception as error:  # noqa: BLE001 - the table shows every failure
        yield "all", {"outcome": "failed", "reason": _reason(error)}
        return
    for method in methods:
        for scope in scopes:
            try:
                yield f"{method} {scope}", _compared(base, method, scope)
            except MixcptError as error:
                yield f"{method} {scope}", {"outcome": "refused", "reason": error.problem}
            except Exception as error:  # noqa: BLE001 - the table shows every failure
                yield f"{method} {scope}", {"outcome": "failed", "reason": _reason(error)}


def _compared(base: Any, method: str, scope: str) -> Outcome:
    """Train both ways and return the outcome with the largest relative difference of the losses."""
    from benchmarks.family_losses import plain_losses, product_losses
    from mixcpt.distill.model import decoder_of
    from mixcpt.distill.reading import reads_one_document

    with tempfile.TemporaryDirectory() as scratch:
        product = product_losses(base, method, scope, Path(scratch) / "mixture")
    return compare(product, plain_losses(base, method, scope)) | {"is_apart": reads_one_document(decoder_of(base))}


def compare(product: Sequence[float], plain: Sequence[float]) -> Outcome:
    """Return the outcome of two lists of losses; a loss that is not finite differs."""
    pairs = list(zip(product, plain, strict=True))
    is_equal = all(abs(one - two) <= _TOLERANCE * max(1.0, abs(two)) for one, two in pairs)
    difference = max(abs(one - two) / max(abs(two), 1e-9) for one, two in pairs)
    if is_equal:
        return {"outcome": "equal", "difference": difference}
    return {"outcome": "differs", "difference": difference, "reason": f"{product[-1]:.6f} and {plain[-1]:.6f}"}


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


def work(families: Sequence[str], methods: Sequence[str], scopes: Sequence[str]) -> None:
    """Compare some families in this process, and print a line of JSON for each."""
    import torch

    from benchmarks import family_losses  # noqa: F401 - before the freeze

    warnings.filterwarnings("ignore")
    logging.disable(logging.ERROR)
    torch.set_num_threads(1)
    gc.freeze()  # every training collects garbage, which is slow among the objects of the libraries
    for family in families:
        result = dict(outcomes(family, methods, scopes))
        print(_MARK + json.dumps([family, result]), flush=True)


def run(families: Sequence[str], options: Sequence[str], *, processes: int, report: Report) -> None:
    """Compare families in several processes, and report each one as soon as it is finished."""
    groups = deque(families[first : first + _GROUP] for first in range(0, len(families), _GROUP))

    def take() -> None:
        while groups:
            try:
                rest = groups.popleft()
            except IndexError:
                return
            while rest:
                rest = _one_process(rest, options, report)

    with ThreadPoolExecutor(processes) as pool:
        for future in [pool.submit(take) for _ in range(processes)]:
            future.result()


def _one_process(families: Sequence[str], options: Sequence[str], report: Report) -> Sequence[str]:
    """Compare families in one process, and return those behind the one at which it ended."""
    command = [sys.executable, "-m", "benchmarks.families", "--worker", "--families", ",".join(families), *options]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    timer = _killer(process)
    num_done = 0
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(_MARK):
            timer.cancel()
            report(*json.loads(line.removeprefix(_MARK)))
            num_done, started, timer = num_done + 1, time.monotonic(), _killer(process)
    timer.cancel()
    if (code := process.wait()) or num_done < len(families):
        rest = families[num_done:]
        if rest:
            report(rest[0], {"all": ended(code, time.monotonic() - started)})
        return rest[1:]
    return []


def ended(code: int, seconds: float) -> Outcome:
    """Return the outcome of a family during which its process ended."""
    if seconds >= _LIMIT_SECONDS:
        return {"outcome": "crashed", "reason": f"stopped after {seconds:.0f} seconds"}
    return {"outcome": "crashed", "reason": f"signal {-code}" if code < 0 else f"exit code {code}"}


def _killer(process: subprocess.Popen[str]) -> threading.Timer:
    timer = threading.Timer(_LIMIT_SECONDS, process.kill)
    timer.daemon = True
    timer.start()
    return timer


class Progress:
    """Writes the outcomes and prints a line with the expected end after every family."""

    def __init__(self, result: Path, known: Mapping[str, dict[str, Outcome]], count: int) -> None:
        self.table = dict(known)
        self._result, self._count, self._num_done = result, count, 0
        self._started, self._lock = time.monotonic(), threading.Lock()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def add(self, family: str, result: dict[str, Outcome]) -> None:
        with self._lock:
            is_partial = "all" not in result and "all" not in self.table.get(family, {"all": {}})
            self.table[family] = self.table[family] | result if is_partial else result
            self._write()
            self._num_done += 1
            end = datetime.now() + timedelta(seconds=self.seconds / self._num_done * (self._count - self._num_done))
            words = ", ".join(sorted({outcome["outcome"] for outcome in result.values()}))
            print(f"[{self._num_done:3} of {self._count}, end about {end:%H:%M}] {family:24} {words}", flush=True)

    def _write(self) -> None:
        data = {"families": dict(sorted(self.table.items())), "seconds": round(self.seconds), "versions": _versions()}
        self._result.write_text(json.dumps(data, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", type=_names, default=[], help="names separated by commas; default: all")
    parser.add_argument("--methods", type=_names, default=list(METHODS))
    parser.add_argument("--scopes", type=_names, default=list(SCOPES))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--result", type=Path, default=RESULT, help="file of the outcomes")
    parser.add_argument("--resume", action="store_true", help="leave out the families that the file has")
    parser.add_argument("--write", type=Path, help="page that gets the table")
    parser.add_argument("--only-write", action="store_true", help="write the table of an earlier run")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        work(options.families, options.methods, options.scopes)
        return
    if not options.only_write:
        _run_all(options)
    if options.write:
        from benchmarks.family_table import table_of

        write_table(options.write, table_of(json.loads(options.result.read_text())))


def _run_all(options: argparse.Namespace) -> None:
    from benchmarks.family_models import families

    names = options.families or families()
    keeps = options.result.exists() and (options.families or options.resume)
    known = json.loads(options.result.read_text())["families"] if keeps else {}
    if options.resume:
        names = [name for name in names if name not in known]
    progress = Progress(options.result, known, len(names))
    shared = ["--methods", ",".join(options.methods), "--scopes", ",".join(options.scopes)]
    run(names, shared, processes=options.processes, report=progress.add)
    print(f"{len(names)} families in {progress.seconds:.0f} s -> {options.result}")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("transformers", "peft", "torch")}


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def write_table(page: Path, table: str) -> None:
    """Replace the table of a page; the page names its place by two lines."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} has no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")


if __name__ == "__main__":
    main()
