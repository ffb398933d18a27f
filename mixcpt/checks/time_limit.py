"""Runs a function that may never end, such as a loop in a chat template."""

import ctypes
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import TypeVar

import psutil

_Result = TypeVar("_Result")


_MAX_ADDED_BYTES = 2**29
"""Memory that a function may add to the process."""
_POLL_SECONDS = 0.02
_MAX_MAPPED_BYTES = 2**30
"""Memory that the process may map meanwhile: a single operation can ask for many GiB between two looks."""
_IN_MEMORY = "within half a GiB of memory"


class TookTooLong(Exception):
    """A function did not end within its time or memory."""


def within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Return the result of a function, or raise its error.

    The function runs in a thread of its own, which is stopped between two operations of the interpreter.

    Raises:
        TookTooLong: If it does not end within `seconds`, or needs more than half a GiB of memory.
    """
    results: list[_Result] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - raised again below
            errors.append(error)
        except SystemExit:  # stopped below
            return

    thread = Thread(target=run, daemon=True)
    limit = f"within {seconds:g} seconds"
    process, end = psutil.Process(), time.monotonic() + seconds
    allowed = process.memory_info().rss + _MAX_ADDED_BYTES
    with _bounded_memory(process.memory_info().vms + _MAX_MAPPED_BYTES):
        thread.start()
        thread.join(_POLL_SECONDS)
        while thread.is_alive() and time.monotonic() < end:
            if process.memory_info().rss > allowed:
                limit = _IN_MEMORY
                break
            thread.join(_POLL_SECONDS)
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise TookTooLong(f"it did not end {limit}")
    if errors:
        if isinstance(errors[0], MemoryError):
            raise TookTooLong(f"it did not end {_IN_MEMORY}") from errors[0]
        raise errors[0]
    return results[0]


@contextmanager
def _bounded_memory(num_bytes: int) -> Iterator[None]:
    """Let the process map at most this memory, on systems that can limit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limited = False
    with suppress(ValueError, OSError):
        if soft == resource.RLIM_INFINITY or soft > num_bytes:
            resource.setrlimit(resource.RLIMIT_AS, (num_bytes, hard))
            limited = True
    try:
        yield
    finally:
        if limited:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
