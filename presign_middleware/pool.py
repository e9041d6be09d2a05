"""
Threads that a process does not wait for when it ends.
"""

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, TypeVar

__all__ = ["Pool"]

#: Seconds that `close` waits for what threads are doing. They may hang, and are daemons.
_CLOSE_WITHIN = 2.0

T = TypeVar("T")


class Pool:
    """
    A few threads, started when they are needed.

    Daemons, other than those of ``ThreadPoolExecutor``: a process can end while one of them
    waits for a server that hangs.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._lock = Lock()
        self._idle = 0
        self._threads: list[Thread] = []
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Have a thread do *work*. Raises RuntimeError when there can be no more threads."""
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work(*args))
                except BaseException as error:
                    future.set_exception(error)

        with self._lock:
            if self._idle:
                self._idle -= 1
            elif len(self._threads) < self._most:
                thread = Thread(target=self._run, args=(self._jobs,), name=self._name, daemon=True)
                thread.start()
                self._threads.append(thread)
            self._jobs.put(job)
        return future

    def close(self) -> None:
        """Wait a little for what is under way, and let go of the threads. A later job starts others."""
        with self._lock:
            threads, self._threads = self._threads, []
            jobs, self._jobs = self._jobs, SimpleQueue()
            self._idle = 0
        for _ in threads:
            jobs.put(None)
        deadline = monotonic() + _CLOSE_WITHIN
        for thread in threads:
            thread.join(max(0, deadline - monotonic()))

    def _run(self, jobs: "SimpleQueue[Callable[[], None] | None]") -> None:
        while (job := jobs.get()) is not None:
            job()
            del job  # or what it has returned would live until the next one
            with self._lock:
                self._idle += jobs is self._jobs
