"""Runs a function that may never end, such as a loop in a chat template."""

import ctypes
from collections.abc import Callable
from threading import Thread
from typing import TypeVar

_Result = TypeVar("_Result")


class TookTooLong(Exception):
    """A function did not end within its time."""


def within(seconds: float, call: Callable[[], _Result]) -> _Result:
    """Return the result of a function, or raise its error.

    The function runs in a thread of its own, which is stopped between two operations of the interpreter.

    Raises:
        TookTooLong: If it does not end within `seconds`.
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
    thread.start()
    thread.join(seconds)
    if thread.is_alive() and thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise TookTooLong(f"it did not end within {seconds:g} seconds")
    if errors:
        raise errors[0]
    return results[0]
