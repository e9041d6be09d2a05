"""
Processes of a server that end with whoever started them, however that came about.

Durations are seconds, instants those of ``time.monotonic()``.
"""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

_POLL: Final = 0.05  # seconds
_LOG_LINES: Final = 20

# Ignores HUP: that is what a group with a stopped process gets when its parent ends.
_GUARD: Final = "trap '' HUP; read -r _; rm -rf \"$@\"; kill -9 0"


class DiedError(Exception):
    """One of the processes ended while it was being waited for."""


class Processes:
    """
    The processes of one start, their directory, and what sees to it that they end.

    All are in one process group, led by a guard that waits for our end of a pipe to
    close: it ends them when we are gone, however that came about. The group is not
    the terminal's, so that Ctrl-C reaches us alone and we stop them in order.

    Args:
        name: Of the server; the directory is named after it.
        leftovers: Files outside the directory that go with it.
    """

    def __init__(self, name: str, leftovers: Iterable[Path] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"presign-{name}-"))
        self._leftovers = tuple(leftovers)
        self._owner = os.getpid()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", self.directory, *self._leftovers],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        _started.add(self)
        atexit.register(self.stop)

    def spawn(self, *command: str) -> subprocess.Popen[bytes]:
        """Start *command*, its output going to the log."""
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                process_group=self._guard.pid,
            )
        self._processes.append(process)
        return process

    def polls(self, deadline: float, failure: str, *, every: float = _POLL) -> Iterator[None]:
        """
        Yield at once, and then *every* so many seconds.

        Raises:
            DiedError: A process has ended.
            TimeoutError: It is past *deadline*; the message is *failure*.
        """
        while time.monotonic() < deadline:
            yield
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    status = process.wait(every / len(self._processes))
                    raise DiedError(f"a process ended with status {status}")
        raise TimeoutError(failure)

    def log_tail(self) -> str:
        """Return the last lines that the processes wrote."""
        with contextlib.suppress(FileNotFoundError):
            lines = (self.directory / "log").read_text(errors="replace").splitlines()
            return "\n".join(lines[-_LOG_LINES:])
        return ""

    def stop(self) -> None:
        """Kill the processes and remove what they left; do nothing in a fork of the process that began."""
        if os.getpid() != self._owner:
            return
        _started.discard(self)
        atexit.unregister(self.stop)
        # SIGTERM may take 15 s. The whole group: Popen may have been interrupted after its fork.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._guard.pid, signal.SIGKILL)
        for process in (*self._processes, self._guard):
            process.wait()
        self.let_go()
        shutil.rmtree(self.directory, ignore_errors=True)
        for path in self._leftovers:
            path.unlink(missing_ok=True)

    def let_go(self) -> None:
        """Close our end of the pipe to the guard."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()


_started: Final[set[Processes]] = set()


def _let_go_of_all() -> None:
    for processes in tuple(_started):
        processes.let_go()


# Or the guard would wait for the end of a fork that outlives us.
os.register_at_fork(after_in_child=_let_go_of_all)
