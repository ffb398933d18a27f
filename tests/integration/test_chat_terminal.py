"""`mixcpt chat` in a real terminal: answers stream, Ctrl-C ends only the answer, Ctrl-D ends the chat."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mixcpt.closed_world.items import items
from mixcpt.config import ClosedWorldTask

PATIENCE_SECONDS = 240.0


class Terminal:
    """A program in a pseudo-terminal, with its output so far."""

    def __init__(self, command: list[str]) -> None:
        ours, theirs = pty.openpty()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(theirs)
        self._descriptor = ours
        self.shown = ""
        self._read = 0

    def send(self, keys: str) -> None:
        os.write(self._descriptor, keys.encode())

    def wait_for(self, *texts: str) -> str:
        """Read until one of `texts` appears after the previous match, and return it."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (places := {self.shown.find(text, self._read): text for text in texts if text in self._unread}):
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"none of {texts} appeared after:\n{self.shown}"
            self.shown += os.read(self._descriptor, 4096).decode(errors="replace")
        first = min(places)
        self._read = first + len(places[first])
        return places[first]

    def press(self, key: str, *, until: str) -> None:
        """Press a key until a text is shown: readline handles a Ctrl-C during a redraw only at the next key."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while until not in self._unread:
            assert time.monotonic() < deadline, f"{until!r} did not appear after:\n{self.shown}"
            self.send(key)
            if select.select([self._descriptor], [], [], 2.0)[0]:
                self.shown += os.read(self._descriptor, 4096).decode(errors="replace")
        self.wait_for(until)

    @property
    def _unread(self) -> str:
        return self.shown[self._read :]


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C in the terminal then sends a signal to the program
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell in the background starts programs with the signal ignored


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    command = ("chat", "closed-world", "--plain", "--max-tokens", "480", "--store", str(tmp_path))
    opened = Terminal([sys.executable, "-m", "mixcpt", *command])
    yield opened
    opened.process.kill()
    opened.process.wait()


def test_chat_streams_and_ends_only_on_request(terminal: Terminal) -> None:
    item = items(ClosedWorldTask(name="known", about="general_asked"))[0]
    terminal.wait_for("/reset forgets the conversation")
    terminal.wait_for("> ")
    for _ in range(10):
        terminal.send("and then \\\n")
        terminal.wait_for("clan")  # early in the answer; on a busy machine it may end before the key arrives
        terminal.send("\x03")
        if terminal.wait_for("interrupted", "Ctrl-D ends the chat") == "interrupted":
            break
    else:
        pytest.fail("no answer was interrupted")
    terminal.wait_for("> ")
    terminal.send(f"{item.prompt.strip()}\n")
    terminal.wait_for(f"\n{item.answer}")
    terminal.wait_for("> ")
    terminal.press("\x03", until="Ctrl-D ends the chat")
    terminal.wait_for("> ")
    terminal.send("\x04")
    assert terminal.process.wait(PATIENCE_SECONDS) == 0
    assert "Traceback" not in terminal.shown
