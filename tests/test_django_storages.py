"""
django-storages' S3 backend as its manual sets it up, under the middleware and without a line about it.

Django's settings are real, and in place for one test only.
"""

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import boto3
import botocore.auth
import httpx
import pytest
from botocore.config import Config
from django.conf import UserSettingsHolder, global_settings, settings
from django.core.files.base import ContentFile
from django.core.files.storage.handler import StorageHandler
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path

import presign_middleware.wsgi
from presign_middleware import Presigner, intercept
from presign_middleware.testing import SeaweedFS

BUCKET: Final = "django-storages"
NAME: Final = "cats/a b ü.jpg"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have keys and a region where boto3 looks for them; take hooks and settings back at the end."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIADJANGOSTORAGES00")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-test-django-storages")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the keys that it found first
    with contextlib.ExitStack() as hooks:
        monkeypatch.setattr(presign_middleware.wsgi, "intercept", lambda: hooks.enter_context(intercept()))
        hooks.callback(setattr, settings, "_wrapped", settings._wrapped)
        yield


#: Gives the storage with these options, and what a page of an application that asks it for URLs has.
Site = Callable[..., tuple[Any, Callable[..., str]]]


@pytest.fixture
def site() -> Site:
    def build(presigner: Presigner, **options: Any) -> tuple[Any, Callable[..., str]]:
        storages = StorageHandler()

        def page(request: HttpRequest) -> HttpResponse:
            return HttpResponse(storages["default"].url(NAME, **asked))

        holder = UserSettingsHolder(global_settings)
        backend = {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": {"bucket_name": BUCKET, **options}}
        for name, value in {
            "ALLOWED_HOSTS": ["*"],
            "ROOT_URLCONF": (path("", page),),
            "SECRET_KEY": "of-test-django-storages",
            "STORAGES": {"default": backend},
        }.items():
            setattr(holder, name, value)
        settings._wrapped = holder
        application = presign_middleware.wsgi.PresignMiddleware(WSGIHandler(), presigner=presigner)
        client = httpx.Client(transport=httpx.WSGITransport(app=application), base_url="http://site")
        asked: dict[str, Any] = {}

        def get(**parameters: Any) -> str:
            asked.clear()
            asked.update(parameters)
            return client.get("/").raise_for_status().text

        return storages["default"], get

    return build


def query(url: str) -> dict[str, str]:
    """Return the query of *url*."""
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


def test_a_default_storage_has_stable_links_that_fetch(
    site: Site, seaweedfs: SeaweedFS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C6: bucket and keys are all it was told; whoever asks gets one URL, which boto3 has not signed."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_key)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweedfs.endpoint_url)
    monkeypatch.setenv("AWS_DEFAULT_REGION", seaweedfs.region)
    seaweedfs.client().create_bucket(Bucket=BUCKET)
    presigner = Presigner(f"s3://{BUCKET}")
    storage, page = site(presigner)
    storage.save(NAME, ContentFile(b"a cat"))
    urls = {page() for _ in range(3)}
    assert len(urls) == 1
    with httpx.Client(trust_env=False, verify=False) as client:
        assert client.get(urls.pop()).content == b"a cat"
    stats = presigner.stats()
    assert (stats["caught"], stats["signed"], stats["signed_by_boto3"]) == (3, 1, 0)


def test_on_aws_a_link_is_what_boto3_would_have_signed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """C6, S1: for AWS's own endpoint, with SigV4, byte for byte."""
    presigner = Presigner(f"s3://{BUCKET}")
    _, page = site(presigner)
    url = page()
    signed_at = datetime.strptime(query(url)["X-Amz-Date"], "%Y%m%dT%H%M%SZ")  # noqa: DTZ007 - as botocore has it
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: signed_at)
    native = boto3.client("s3", config=Config(signature_version="s3v4"))
    assert url == native.generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": NAME})
    assert presigner.stats()["caught"] == 1


def test_its_settings_count(site: Site) -> None:
    """C6: querystring_expire is X-Amz-Expires, location is in the key, parameters are signed."""
    presigner = Presigner(f"s3://{BUCKET}/media/")
    _, page = site(presigner, querystring_expire=900, location="media")
    url = page(parameters={"ResponseContentDisposition": "attachment"})
    assert urlsplit(url).path == "/media/cats/a%20b%20%C3%BC.jpg"
    assert query(url)["X-Amz-Expires"] == "900"
    assert query(url)["response-content-disposition"] == "attachment"
    assert query(page(expire=1800))["X-Amz-Expires"] == "1800"
    assert presigner.stats()["caught"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"custom_domain": "cdn.example.com"},
        {"querystring_auth": False},
        {"signature_version": "s3"},
        {"access_key": "AKIAOTHER", "secret_key": "another-secret"},
        {"bucket_name": "another-bucket"},
        {"querystring_expire": 30},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_not_for_the_cache_is_as_before(site: Site, options: dict[str, Any]) -> None:
    """C6: a domain of its own, public links, SigV2 by choice, other keys or bucket, seconds: untouched."""
    presigner = Presigner(f"s3://{BUCKET}")
    storage, page = site(presigner, **options)
    for url in (page(), storage.url(NAME)):
        assert "X-Amz-Date" not in url
    assert presigner.stats()["caught"] == 0
