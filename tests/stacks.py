"""
What tests of whole applications share: a private bucket on a real S3 server, and hooks that are taken back.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import django
import httpx
import pytest
from faults import eventually
from fleet import DEADLINE

import presign_middleware.asgi
import presign_middleware.wsgi
from presign_middleware import Origin, Presigner, SigningError, intercept
from presign_middleware.local import Entry
from presign_middleware.runner import Runner
from presign_middleware.testing import SeaweedFS

__all__ = ["GOOD", "REFUSED", "Pets", "django_project", "fetch", "fetch_sync", "own_hooks", "pets"]

#: What `fetch` and `fetch_sync` return.
GOOD, REFUSED = "200 a private cat", "403"


def fetch_sync(url: str) -> str:
    """Return status and body, as a bare client gets them."""
    with httpx.Client(verify=False) as client:
        return _said(client.get(url))


async def fetch(url: str) -> str:
    """Return what `fetch_sync` returns."""
    async with httpx.AsyncClient(verify=False) as client:
        return _said(await client.get(url))


def _said(response: httpx.Response) -> str:
    return f"{response.status_code} {response.text if response.is_success else ''}".strip()


@pytest.fixture
def own_hooks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take back what middlewares hook: they themselves do so for good, as a process needs it."""
    with contextlib.ExitStack() as hooks:
        for module in (presign_middleware.asgi, presign_middleware.wsgi):
            monkeypatch.setattr(module, "intercept", lambda: hooks.enter_context(intercept()))
        yield


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let renewals that are done in threads hang until the gate is set."""
    gate, renew = threading.Event(), Runner.renew

    def hanging(runner: Runner, entries: list[Entry]) -> list[Entry | SigningError]:
        assert gate.wait(DEADLINE)
        return renew(runner, entries)

    monkeypatch.setattr(Runner, "renew", hanging)
    yield gate
    gate.set()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name == "presign-renewal"])


@dataclass(frozen=True)
class Pets:
    """A private bucket of a real S3 server, with a cat and a dog."""

    server: SeaweedFS
    bucket: str = "pets"

    @property
    def cat(self) -> str:
        """The unsigned URL of ``a private cat``."""
        return f"{self.server.endpoint_url}/{self.bucket}/cats/cat.jpg"

    @property
    def dog(self) -> str:
        """The unsigned URL of ``a private dog``."""
        return f"{self.server.endpoint_url}/{self.bucket}/dogs/dog.jpg"

    def presigner(self, prefix: str = "") -> Presigner:
        """Return a presigner for what begins with *prefix*."""
        keys = boto3.Session(self.server.access_key, self.server.secret_key, region_name=self.server.region)
        place = Origin(
            "pets",
            bucket=self.bucket,
            prefix=prefix,
            endpoint_url=self.server.endpoint_url,
            session=keys,
        )
        return Presigner(place)

    def environment(self) -> dict[str, str]:
        """Return the environment that describes the same presigner."""
        return {
            "PRESIGN_ORIGINS": f"pets=s3://{self.bucket}/?region={self.server.region}",
            "AWS_ENDPOINT_URL": self.server.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.server.access_key,
            "AWS_SECRET_ACCESS_KEY": self.server.secret_key,
        }


@pytest.fixture(scope="session")
def pets(seaweedfs: SeaweedFS) -> Pets:
    """Give the bucket, filled."""
    pets = Pets(seaweedfs)
    client = seaweedfs.client()
    client.create_bucket(Bucket=pets.bucket)
    for key, body in {"cats/cat.jpg": b"a private cat", "dogs/dog.jpg": b"a private dog"}.items():
        client.put_object(Bucket=pets.bucket, Key=key, Body=body, ContentType="image/jpeg")
    client.close()
    return pets


@pytest.fixture(scope="session")
def django_project() -> Iterator[None]:
    """Set Django up, with the settings of the example: it can be done once a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "examples" / "django_project"))
        patch.setenv("DJANGO_SETTINGS_MODULE", "files.settings")
        patch.setenv("SECRET_KEY", "secret")
        django.setup()
        yield
