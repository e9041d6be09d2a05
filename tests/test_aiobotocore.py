"""
aiobotocore's ``generate_presigned_url``, which is awaited; the rest is as in ``test_botocore.py``.

aiobotocore asks for a botocore of its own, so it is not among what the other tests need:
``make test-aiobotocore`` has an environment for it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import boto3
import httpx
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from sources import Chain

from presign_middleware import Origin, Presigner, intercept
from presign_middleware.interception import Interception
from presign_middleware.testing import Clock, SeaweedFS

aio = pytest.importorskip("aiobotocore.client", reason="aiobotocore is not installed")
aiosession = pytest.importorskip("aiobotocore.session")
signers = pytest.importorskip("aiobotocore.signers")

NOON: Final = 1_767_268_800  # 2026-01-01 12:00:00 UTC
KEYS: Final = boto3.Session("AKIAAIOBOTOCORE00001", "a-secret-of-test-aiobotocore", region_name="eu-west-1")
SIGV4: Final = Config(signature_version="s3v4")


@pytest.fixture
def presigner() -> Presigner:
    return Presigner(
        Origin("media", bucket="acme-media", region="eu-west-1", session=KEYS), clock=Clock(NOON)
    )


@asynccontextmanager
async def s3(access_key: str = "AKIAAIOBOTOCORE00001", config: Config | None = None) -> AsyncIterator[Any]:
    keys = {"aws_access_key_id": access_key, "aws_secret_access_key": "a-secret-of-test-aiobotocore"}
    session = aiosession.get_session()
    async with session.create_client("s3", region_name="eu-west-1", config=config, **keys) as client:
        yield client


async def link(client: Any, key: str = "cat.jpg", **options: Any) -> str:
    params = {"Bucket": "acme-media", "Key": key, **options}
    url: str = await client.generate_presigned_url("get_object", Params=params)
    return url


def run(body: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """Return what ``body(client)`` returns."""

    async def awaited() -> Any:
        async with s3(**options) as client:
            return await body(client)

    return asyncio.run(awaited())


@pytest.fixture(autouse=True)
def hooks() -> Iterator[Interception]:
    with intercept("aiobotocore") as hooks:
        yield hooks


@pytest.mark.parametrize("config", [SIGV4, None], ids=["SigV4", "nothing chosen"])
def test_a_link_stays_the_same(presigner: Presigner, config: Config | None) -> None:
    """C6: in another request, by another client in another loop, however many ask at once: signed once."""

    async def page(client: Any) -> list[str]:
        async with presigner.scope():
            return await asyncio.gather(*(link(client) for _ in range(5)))

    urls = [url for _ in range(2) for url in run(page, config=config)]
    assert len(set(urls)) == 1
    assert "X-Amz-Date" in urls[0]
    assert (presigner.stats()["caught"], presigner.stats()["signed"]) == (10, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"access_key": "AKIAOTHER"},
        {"config": Config(signature_version="s3")},
        {"config": Config(signature_version=UNSIGNED)},
    ],
    ids=["other keys", "SigV2", "unsigned"],
)
def test_other_clients_are_left_alone(presigner: Presigner, options: dict[str, Any]) -> None:
    """C6: boto3's rules: whoever has other keys or chose another version is answered by aiobotocore."""

    async def twice(client: Any) -> list[bool]:
        async with presigner.scope():
            return [presigner.catching.unsigned(await link(client)) is None for _ in range(2)]

    assert run(twice, **options) == [True, True]
    assert (presigner.stats()["caught"], presigner.stats()["left_to_boto3"]) == (0, 2)


def test_outside_of_a_scope_nothing_is_answered(presigner: Presigner) -> None:
    """D7: nor inside paused(), nor of another bucket."""

    async def three(client: Any) -> list[str]:
        urls = [await link(client)]
        async with presigner.scope():
            urls.append(await link(client, Bucket="acme-other"))
            with presigner.paused():
                return [*urls, await link(client)]

    assert ["AWSAccessKeyId" in url for url in run(three)] == [True] * 3
    assert presigner.stats()["caught"] == 0


def test_the_loop_goes_on_while_keys_are_fetched() -> None:
    """D5: credentials come in a thread; who awaits a link waits for them, and nobody else does."""
    chain = Chain(Clock(NOON))
    presigner = Presigner(Origin("media", bucket="acme-media", region="eu-west-1", session=chain.session()))
    chain.shut()

    async def late(client: Any) -> str:
        async with presigner.scope():
            waiting = asyncio.create_task(link(client))
            await asyncio.to_thread(chain.asked.wait, 5)
            assert not waiting.done()
            chain.gate.set()
            return await waiting

    assert "AKIAAIOBOTOCORE00001" in run(late, config=SIGV4)  # whose keys are others, as it turns out


def test_classes_are_as_they_were(hooks: Interception) -> None:
    """C4: what the last remove leaves is aiobotocore's own: of classes, and where these are made."""

    async def body(client: Any) -> None:
        kind = type(client)
        assert vars(kind)["generate_presigned_url"] is not signers.generate_presigned_url
        intercept("aiobotocore").remove()
        assert vars(kind)["generate_presigned_url"] is not signers.generate_presigned_url
        hooks.remove()
        assert vars(kind)["generate_presigned_url"] is signers.generate_presigned_url

    run(body)
    assert "presign_middleware" not in vars(aio.AioClientCreator)["_create_client_class"].__code__.co_filename


def test_links_fetch(seaweedfs: SeaweedFS) -> None:
    """C6: over real HTTP."""
    client = seaweedfs.client()
    client.create_bucket(Bucket="aiobotocore")
    client.put_object(Bucket="aiobotocore", Key="a b/ü.txt", Body=b"a cat")
    session = boto3.Session(seaweedfs.access_key, seaweedfs.secret_key)
    place: dict[str, Any] = {"endpoint_url": seaweedfs.endpoint_url, "session": session}
    presigner = Presigner(Origin("links", bucket="aiobotocore", region=seaweedfs.region, **place))

    async def fetch() -> bytes:
        made = aiosession.get_session().create_client(
            "s3",
            region_name=seaweedfs.region,
            endpoint_url=seaweedfs.endpoint_url,
            aws_access_key_id=seaweedfs.access_key,
            aws_secret_access_key=seaweedfs.secret_key,
        )
        async with (
            presigner.scope(),
            made as client,
            httpx.AsyncClient(trust_env=False, verify=False) as http,
        ):
            answer = await http.get(await link(client, "a b/ü.txt", Bucket="aiobotocore"))
            return answer.content

    assert asyncio.run(fetch()) == b"a cat"
    assert presigner.stats()["caught"] == 1


def test_its_writes_take_back_the_urls_of_their_objects(seaweedfs: SeaweedFS) -> None:
    """M6: and once each, though what it sends through is hooked as well."""
    seaweedfs.client().create_bucket(Bucket="aiowrites")
    session = boto3.Session(seaweedfs.access_key, seaweedfs.secret_key)
    place: dict[str, Any] = {"endpoint_url": seaweedfs.endpoint_url, "session": session}
    origin = Origin("media", bucket="aiowrites", region=seaweedfs.region, invalidate_on_write=True, **place)
    presigner = Presigner(origin)

    async def write() -> list[bool]:
        made = aiosession.get_session().create_client(
            "s3",
            region_name=seaweedfs.region,
            endpoint_url=seaweedfs.endpoint_url,
            aws_access_key_id=seaweedfs.access_key,
            aws_secret_access_key=seaweedfs.secret_key,
        )
        async with presigner.scope(), made as client:
            odd = {"Bucket": "aiowrites", "Key": "a b/ü+%2F&'<>.jpg"}
            listed = {"Objects": [{"Key": odd["Key"]}, {"Key": "other"}]}
            changed = []
            for operation, asked in (
                (client.put_object, {"Body": b"new", **odd}),
                (client.copy_object, {**odd, "CopySource": odd, "MetadataDirective": "REPLACE"}),
                (client.delete_object, odd),
                (client.delete_objects, {"Bucket": "aiowrites", "Delete": listed}),
            ):
                before = await presigner.aurl(f"s3://aiowrites/{odd['Key']}")
                await operation(**asked)
                changed.append(await presigner.aurl(f"s3://aiowrites/{odd['Key']}") != before)
            return changed

    with intercept("aiobotocore", "aiohttp", "httpx"):
        assert asyncio.run(write()) == [True] * 4
    assert presigner.stats()["invalidated"] == 5
