"""
What the tests of an application need: a clock, a strict S3, a real one, and a memcached.

    from presign_middleware.testing import Clock, Memcached, Oracle, SeaweedFS

`Clock` stands still until told to move. `Oracle` is an S3 of one process which
checks presigned URLs as AWS does, on a clock of the test. `SeaweedFS` starts a
real server (``pip install "presign-middleware[testing]"``), `Memcached` the one that the
system has. As pytest fixtures: ``pytest_plugins = ["presign_middleware.testing.fixtures"]``.

Importing this package imports the standard library alone: no pytest, no
botocore, no HTTP client and no framework.
"""

from presign_middleware.testing.clock import Clock
from presign_middleware.testing.memcached import Memcached
from presign_middleware.testing.oracle import KeyPair, Oracle, S3Request, S3Response, Seen
from presign_middleware.testing.seaweedfs import SeaweedFS

__all__ = ["Clock", "KeyPair", "Memcached", "Oracle", "S3Request", "S3Response", "SeaweedFS", "Seen"]
