"""
A real memcached for tests and demonstrations; the binary is the system's.

    with Memcached() as server:
        client = pymemcache.Client(server.address)
        server.freeze()

It dies with the `with` block, with the interpreter, and, should that be killed, with
it: a small guard waits for the interpreter's end of a pipe to close.

Durations are seconds.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from types import TracebackType
from typing import Final, Self

from presign_middleware.testing.ports import free_ports
from presign_middleware.testing.processes import DiedError, Processes

_START_WITHIN: Final = 10.0  # seconds
_ANSWER_WITHIN: Final = 5.0  # seconds
_ATTEMPTS: Final = 3  # another process may take a port between our look and the server's
_PROBE_WITHIN: Final = 0.5  # seconds; it may be a silent stranger that has the port
_POLL: Final = 0.01  # seconds
_LEAST_MEMORY: Final = 1  # MB

# A login that is not root's may lack the sbin directories, a service may lack all but two.
_DIRECTORIES: Final = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin")


class Memcached:
    """
    Run a memcached on loopback, TCP alone.

    Starting takes some 20 ms. The port is found by the first start and then kept, so
    that what was configured with `address` meets the server again after `restart`.
    It belongs to the process that started it: a fork of that one leaves it alone.
    Not safe to start and stop from several threads at once.

    Args:
        memory: For items, in MB; with 1, an item has half of it at most and not all.

    Raises:
        ValueError: *memory* is less than 1.
    """

    host: Final = "127.0.0.1"

    def __init__(self, *, memory: int = 64) -> None:
        if memory < _LEAST_MEMORY:
            raise ValueError(f"memory must be {_LEAST_MEMORY} MB or more, got {memory}")
        self._memory = memory
        self._port: int | None = None
        self._processes: Processes | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @classmethod
    def is_available(cls) -> bool:
        """Return whether there is a memcached to run: on the PATH, or where packages put it."""
        return _find_memcached() is not None

    def __enter__(self) -> Self:
        """Do what `start` does."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # -- where it is

    @property
    def port(self) -> int:
        """Return the port, known from the first start on, also while it does not run."""
        if self._port is None:
            raise RuntimeError("this Memcached has not been started: use it in a with block")
        return self._port

    @property
    def address(self) -> str:
        """Return ``127.0.0.1:<port>``."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """Return ``memcached://127.0.0.1:<port>``."""
        return f"memcached://{self.address}"

    @property
    def is_running(self) -> bool:
        """Return whether it was started and has not ended; a frozen one runs."""
        return self._server is not None and self._server.poll() is None

    # -- its life

    def start(self) -> None:
        """
        Start the server, empty, and wait until it answers.

        Raises:
            RuntimeError: It runs already, memcached is not installed, or it did not start
                within 10 s; the message has the end of its log.
        """
        if self.is_running:
            raise RuntimeError("this Memcached is running already")
        self.stop()  # it may have ended without us, which leaves its directory and its guard
        binary = _find_memcached()
        if binary is None:
            raise RuntimeError(
                f"memcached is neither on the PATH nor in {', '.join(_DIRECTORIES)}: "
                "apt-get install memcached, or brew install memcached"
            )
        deadline = time.monotonic() + _START_WITHIN
        for attempt in range(1, _ATTEMPTS + 1):
            port = self._port or free_ports(1)[0]
            try:
                self._start(binary, port, deadline)
            except (DiedError, TimeoutError) as error:
                log = self._processes.log_tail() if self._processes is not None else ""
                self.stop()
                if isinstance(error, TimeoutError) or attempt == _ATTEMPTS:
                    raise RuntimeError(
                        f"memcached did not start on port {port}: {error}. The end of its log:\n{log}"
                    ) from None
            except BaseException:
                self.stop()
                raise
            else:
                self._port = port
                break

    def stop(self) -> None:
        """End the server, frozen or not; do nothing if it does not run."""
        if self._processes is not None:
            self._processes.stop()
        self._processes = self._server = None
        self._frozen = False

    def kill(self) -> None:
        """
        End the server as a crash does, with SIGKILL, and wait until it is gone.

        Raises:
            RuntimeError: It does not run.
        """
        self._running().kill()
        self.stop()

    def restart(self) -> None:
        """
        Stop the server if it runs, and start it on the same port, empty.

        Raises:
            RuntimeError: As `start`, or another process has taken the port.
        """
        self.stop()
        self.start()

    def freeze(self) -> None:
        """
        Stop the server with SIGSTOP: it accepts, and answers nothing, until `thaw`.

        Raises:
            RuntimeError: It does not run.
        """
        server = self._running()
        if self._frozen:
            return
        server.send_signal(signal.SIGSTOP)
        # Until every thread of it has stopped, or one might still answer.
        os.waitpid(server.pid, os.WUNTRACED)
        self._frozen = True

    def thaw(self) -> None:
        """
        Let a frozen server go on; it answers what it was asked meanwhile.

        Raises:
            RuntimeError: It does not run.
        """
        self._running().send_signal(signal.SIGCONT)
        self._frozen = False

    # -- what it holds

    def stats(self) -> dict[str, str]:
        """
        Return what ``stats`` answers, over a connection of its own.

        Raises:
            OSError: It does not run, or is frozen: TimeoutError after 5 s.
        """
        return _stats(self.port, _ANSWER_WITHIN)

    def flush(self) -> None:
        """
        Forget every item; the counters of `stats` go on.

        Raises:
            OSError: As `stats`.
        """
        _ask(self.port, b"flush_all", b"OK\r\n", _ANSWER_WITHIN)

    def __repr__(self) -> str:
        state = "frozen" if self._frozen else "running" if self.is_running else "not running"
        where = f"{self.address} " if self._port is not None else ""
        return f"<Memcached {where}{state}>"

    def _start(self, binary: str, port: int, deadline: float) -> None:
        self._processes = processes = Processes("memcached")
        arguments = [binary, "-l", self.host, "-p", str(port), "-U", "0", "-m", str(self._memory)]
        if self._memory == 1:
            arguments += ["-I", "512k"]  # memcached refuses less than two items of the largest size
        if os.geteuid() == 0:
            arguments += ["-u", "nobody"]  # memcached refuses to be root
        self._server = processes.spawn(*arguments)
        pid = str(self._server.pid)
        for _ in processes.polls(deadline, "it does not answer", every=_POLL):
            with contextlib.suppress(OSError):
                # The pid, since another server that took the port would answer as well.
                if _stats(port, _PROBE_WITHIN).get("pid") == pid:
                    break

    def _running(self) -> subprocess.Popen[bytes]:
        if self._server is None or not self.is_running:
            raise RuntimeError("this Memcached is not running: start() or restart() it")
        return self._server


def _find_memcached() -> str | None:
    path = os.pathsep.join(filter(None, [os.environ.get("PATH"), *_DIRECTORIES]))
    found = shutil.which("memcached", path=path)
    # Absolute, since the server is started in a directory of its own.
    return os.path.abspath(found) if found is not None else None


def _stats(port: int, timeout: float) -> dict[str, str]:
    lines = _ask(port, b"stats", b"END\r\n", timeout).decode().splitlines()
    named = (line.split(" ", 2) for line in lines if line.startswith("STAT "))
    return {name: value for _, name, value in named}


def _ask(port: int, command: bytes, end: bytes, timeout: float) -> bytes:
    """
    Return what the server on *port* answers to *command*, up to and with *end*.

    Raises:
        OSError: No connection, or it was closed; TimeoutError after *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=max(timeout, _POLL)) as connection:
        connection.sendall(command + b"\r\n")
        while not answer.endswith(end):
            connection.settimeout(max(deadline - time.monotonic(), _POLL))
            received = connection.recv(65_536)
            if not received:
                raise ConnectionError(f"memcached on port {port} hung up")
            answer += received
    return answer
