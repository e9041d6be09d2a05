"""
Ports of loopback for servers that cannot be told to take any.

Another process may take one between our look and the server's: try again.
"""

import random
import socket
from typing import Final

# Below Linux's ephemeral ports, as is port + 10000: no outgoing connection is ever given one.
_FIRST_PORT: Final = 10_240
_LAST_PORT: Final = 22_000


def free_ports(count: int, *, offset: int = 0) -> tuple[int, ...]:
    """Return *count* ports of 127.0.0.1 that are free, and so is each + *offset*, 10000 or less."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(_FIRST_PORT, _LAST_PORT)
        if _is_free(port) and _is_free(port + offset):
            found.add(port)
    return tuple(found)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
