"""
What befalls the memcacheds of a fleet, and what ends it.

The servers are real ones, each behind a proxy, and an endpoint tells the fleet of them as
ElastiCache does: so one can join or leave while processes run.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final

from faults import FakeMemcached, Proxy

from presign_middleware.testing import Memcached

__all__ = ["MISFORTUNES", "Misfortune", "Street"]

#: Servers that the fleet has as long as nothing befalls it, and one that may join.
_USUAL, _ALL = 2, 3


class Street:
    """The servers, what stands before them, and who tells of them."""

    def __init__(self, stack: ExitStack) -> None:
        self.servers = [stack.enter_context(Memcached()) for _ in range(_ALL)]
        self._small = stack.enter_context(Memcached(memory=1))
        self.proxies = [stack.enter_context(Proxy(server.address)) for server in self.servers]
        self._small_proxy = stack.enter_context(Proxy(self._small.address))
        self.endpoint = stack.enter_context(FakeMemcached())
        self.have(_USUAL)

    @property
    def url(self) -> str:
        """Return what the fleet is told."""
        return f"elasticache://{self.endpoint.address}"

    @property
    def evictions(self) -> int:
        """Return how many entries the small server has thrown out."""
        return int(self._small.stats()["evictions"])

    def have(self, number: int) -> None:
        """Have the fleet told of so many servers."""
        self._tell(self.proxies[:number])

    def shrink(self) -> None:
        """Have the fleet told of one server of 1 MB in the place of the usual ones."""
        self._tell([self._small_proxy])

    def usual(self, what: str, *args: Any) -> None:
        """Have this done to each server of the usual ones."""
        for server in self.servers[:_USUAL]:
            getattr(server, what)(*args)

    def between(self, what: str, *args: Any) -> None:
        """Have this done by each proxy of the usual ones."""
        for proxy in self.proxies[:_USUAL]:
            getattr(proxy, what)(*args)

    def _tell(self, proxies: Sequence[Proxy]) -> None:
        self.endpoint.nodes = [f"{proxy.host}|{proxy.host}|{proxy.port}" for proxy in proxies]


Act = Callable[[Street], object]


def _obey(street: Street) -> None:
    street.between("obey")


@dataclass(frozen=True, slots=True)
class Misfortune:
    """Something that befalls the servers."""

    name: str
    begin: Act = lambda street: None
    end: Act = _obey
    again: float = 0.0  #: seconds after which it befalls them again; 0: once
    is_felt: bool = True  #: processes see servers fail
    is_slow: bool = False  #: servers answer in time, and every page waits for it
    is_sly: bool = False  #: servers say that they are there, and fail who comes
    evicts: bool = False  #: entries are thrown out


MISFORTUNES: Final = (
    Misfortune("15 ms late", lambda s: s.between("delay", 0.015), is_felt=False, is_slow=True),
    Misfortune("0.2 s late", lambda s: s.between("delay", 0.2), is_sly=True),
    Misfortune("blackhole", lambda s: s.between("blackhole")),
    Misfortune("blackhole, 1 of 2", lambda s: s.proxies[0].blackhole()),
    Misfortune("reset", lambda s: s.between("reset")),
    Misfortune("half open", lambda s: s.between("half_open"), again=2),
    Misfortune("truncated", lambda s: s.between("truncate")),
    Misfortune("garbled", lambda s: s.between("garble"), is_sly=True),
    Misfortune("frozen (SIGSTOP)", lambda s: s.usual("freeze"), lambda s: s.usual("thaw")),
    Misfortune("killed (SIGKILL)", lambda s: s.usual("kill"), lambda s: s.usual("start")),
    Misfortune("restarted each 2 s", lambda s: s.usual("restart"), again=2),
    Misfortune("flush_all each 1 s", lambda s: s.usual("flush"), again=1, is_felt=False),
    Misfortune("1 MB of memory", Street.shrink, lambda s: s.have(_USUAL), is_felt=False, evicts=True),
    Misfortune("a node joins", lambda s: s.have(_ALL), lambda s: s.have(_USUAL), is_felt=False),
    Misfortune("a node leaves", lambda s: s.have(1), lambda s: s.have(_USUAL), is_felt=False),
    Misfortune(
        "endpoint silent", lambda s: s.endpoint.blackhole(), lambda s: s.endpoint.obey(), is_felt=False
    ),
)
