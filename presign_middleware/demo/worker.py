"""
One more process that serves the gallery, with a session of its own as one more host has.

It ends when its standard input does, which is at the latest when the demo is no more.
"""

import json
import subprocess
import sys
from types import TracebackType
from typing import Self

from .pictures import keys
from .serving import listen, served, with_presigner

__all__ = ["Worker"]


class Worker:
    """
    The process, for a ``with`` block. Entering does not wait until it serves: `address` does.

    Args:
        bucket: Where the pictures are.
        pictures: How many.
        shared: The memcached that it shares URLs through; None: it shares none.
    """

    def __init__(self, bucket: str, pictures: int, shared: str | None) -> None:
        self._command = [sys.executable, "-m", __name__, bucket, str(pictures), *filter(None, [shared])]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,  # Ctrl-C is for the demo, which ends this one
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._process:  # which waits for it and closes the pipes
            self._process.kill()

    def address(self) -> str:
        """Wait until it serves and return where, once. Raises RuntimeError: it ended instead."""
        return self._line()

    def counts(self) -> dict[str, int]:
        """Return the counters of its presigner. Raises RuntimeError or OSError: it has ended."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        counts: dict[str, int] = json.loads(self._line())
        return counts

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker process ended with status {self._process.wait()}")
        return line.rstrip()


def _serve(bucket: str, pictures: str, shared: str | None = None) -> None:
    """Serve the gallery; print where it is, then the counters whenever a line comes in."""
    application, presigner = with_presigner(bucket, keys(int(pictures)), shared)
    with served(application, listen(0)) as address:
        print(address, flush=True)
        for _ in sys.stdin:
            print(json.dumps(presigner.stats()), flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
