"""The public surface: its names, what importing it costs, what it refuses and in which words."""

import asyncio
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import boto3
import pytest

import presign_middleware
from presign_middleware import (
    ConfigurationError,
    NotCovered,
    Origin,
    Policy,
    Presigner,
    PresignError,
    SigningError,
    intercept,
    presigned,
)
from presign_middleware.testing import Clock

SESSION = boto3.Session(aws_access_key_id="AKIATEST", aws_secret_access_key="secret", region_name="eu-west-1")


@pytest.fixture
def presigner() -> Presigner:
    return Presigner(Origin("media", bucket="acme-media", prefix="public/", session=SESSION), clock=Clock())


@pytest.fixture(autouse=True)
def no_presign_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the settings of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("PRESIGN_")]:
        monkeypatch.delenv(name)


# Names and imports.


def test_exported_names() -> None:
    """__all__ is sorted, has every public name of this version, and each is there."""
    assert sorted(presign_middleware.__all__) == presign_middleware.__all__
    assert {
        *("Presigner", "Origin", "Policy", "SignedURL", "presigned", "intercept", "RedactSignatures"),
        "Explanation",
        *("PresignError", "ConfigurationError", "SigningError", "NotCovered"),
    } == set(presign_middleware.__all__)
    for name in presign_middleware.__all__:
        assert getattr(presign_middleware, name).__name__ == name
        assert name in dir(presign_middleware)


def test_exported_things_are_documented() -> None:
    """Every public name, and every public method of a presigner, has a docstring."""
    named = [getattr(presign_middleware, name) for name in presign_middleware.__all__]
    methods = [value for name, value in inspect.getmembers(Presigner, callable) if name[0] != "_"]
    assert [thing for thing in named + methods if not inspect.getdoc(thing)] == []


def test_an_unknown_name() -> None:
    """A name that the package does not have is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="'presign_middleware' has no attribute 'Presinger'"):
        _ = presign_middleware.Presinger


def test_the_version() -> None:
    """The version in the code is the version of the distribution."""
    assert version("presign-middleware") == presign_middleware.__version__


@pytest.mark.parametrize(
    "statement",
    [
        "import presign_middleware",
        "from presign_middleware import Presigner, Origin, presigned, intercept",
        "from presign_middleware import *",
        "import presign_middleware.asgi",
        "import presign_middleware.wsgi",
        "import presign_middleware.dashboard",
        "from presign_middleware.links import Link, link, alink; Link('media')",
        "import presign_middleware.testing",
        "from presign_middleware import intercept; intercept()",
    ],
)
def test_imports_are_light(statement: str) -> None:
    """Importing and hooking load neither boto3 nor a framework nor an HTTP client."""
    heavy = {
        *("boto3", "botocore", "s3transfer", "pymemcache", "cryptography"),
        *("starlette", "fastapi", "flask", "django", "werkzeug", "uvicorn", "pytest"),
        *("httpx", "httpx2", "httpcore", "httpcore2", "requests", "aiohttp", "urllib3"),
        *("pydantic", "prometheus_client", "opentelemetry"),
    }
    assert set() == heavy & {name.partition(".")[0] for name in _loaded(statement)}


def test_importing_a_presigner_is_lighter_still() -> None:
    """Whoever only imports `Presigner` loads its class, and of the standard library what futures import."""
    found = _loaded("from presign_middleware import Presigner")
    assert {"", ".account", ".errors", ".local", ".presigner", ".scope"} == _ours(found)
    heavy = {"asyncio", "dataclasses", "datetime", "email", "hashlib", "inspect", "json", "ssl", "urllib"}
    assert set() == heavy & found - _loaded("import concurrent.futures, typing")


def test_making_a_presigner_loads_what_it_needs_and_no_more() -> None:
    """A presigner of one process has what signs, and not what shares, seals, measures, explains or shows."""
    found = _loaded(MADE)
    assert set() == found & {"asyncio", "calendar", "datetime", "email", "json", "pathlib", "ssl"}
    unused = {"answering", "environment", "explaining", "links", "measuring", "presence", "recent", "worker"}
    unused |= {"addresses", "doctor", "loops", "seal", "servers", "shared"}
    assert set() == _ours(found) & {f".{name}" for name in unused}


def test_the_first_url_imports_nothing_of_this_library() -> None:
    """What every presigner needs is there when it is made: the first request waits for no import of ours."""
    made = _loaded(MADE)
    asked = _loaded(f'{MADE}; made.url("s3://acme-media/a"); made.url("s3://acme-media/b?versionId=1")')
    assert _ours(asked) == _ours(made)


def test_a_side_is_made_once_in_each_process(presigner: Presigner) -> None:
    """What is made when it is asked for first stays; a fork makes its own, also of a parent that is at it."""
    before = presigner.measuring
    assert presigner.measuring is before
    with presigner._making:
        presigner._open(presigner._epochs)  # as a child does
        assert presigner.measuring.counts is presigner.counts is not before.counts


def test_closing_makes_nothing(presigner: Presigner) -> None:
    """close() ends what was begun, and imports nothing to do so."""
    presigner.close()
    assert "presence" not in vars(presigner)


#: A presigner whose keys are there.
MADE = (
    'import os; os.environ.update(AWS_ACCESS_KEY_ID="AKIATEST", AWS_SECRET_ACCESS_KEY="secret"); '
    "from presign_middleware import Presigner; "
    'made = Presigner("media=s3://acme-media/?region=eu-west-1")'
)


def _loaded(statement: str) -> set[str]:
    """Return the modules that a Python has loaded which has run *statement*."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(answer.stdout.split())


def _ours(modules: set[str]) -> set[str]:
    package = presign_middleware.__name__
    return {name.removeprefix(package) for name in modules if name.partition(".")[0] == package}


# Errors.


def test_the_tree_of_errors() -> None:
    """Every error of the library is a PresignError, and whose fault it is is in its class."""
    assert {ConfigurationError, NotCovered, SigningError} == set(PresignError.__subclasses__())
    assert PresignError.__bases__ == (Exception,)


def _media(**settings: Any) -> Presigner:
    return Presigner(
        Origin("media", bucket="acme-media", prefix="public/", session=SESSION), clock=Clock(), **settings
    )


def _no_region() -> Any:
    return Presigner(Origin("media", bucket="acme-media"))


def _unknown_profile(region: str | None) -> Callable[[], Any]:
    return lambda: Presigner(Origin("media", bucket="acme-media", region=region, profile="nobody")).url(
        "s3://acme-media/a"
    )


def _same_names() -> Any:
    return Presigner("media=s3://one/?region=eu-west-1", "media=s3://two/?region=eu-west-1")


def _unmade(target: str, **options: Any) -> Callable[[], Any]:
    return lambda: _media().url(target, **options)


@pytest.mark.parametrize(
    ("kind", "said", "attempt"),
    [
        # The program.
        (ConfigurationError, ["needs an origin", "Origin("], Presigner),
        (ConfigurationError, ["different names", "media, media"], _same_names),
        (ConfigurationError, ["local_size", "1 or more", "0"], lambda: _media(local_size=0)),
        (
            ConfigurationError,
            ["shared", "memcached://host:port"],
            lambda: _media(shared="memcached://127.0.0.1:port"),
        ),
        (ConfigurationError, ["lifetime", "60", "604800", "got 0"], lambda: Policy(lifetime=0)),
        (ConfigurationError, ["lifetime", "604800", "got 691200"], lambda: Policy(lifetime=691_200)),
        (ConfigurationError, ["lifetime", "got 0"], _unmade("s3://acme-media/public/a", lifetime=0)),
        (ConfigurationError, ["got 691200"], _unmade("s3://acme-media/public/a", lifetime=691_200)),
        (ConfigurationError, ["'media'", "region", "AWS_DEFAULT_REGION"], _no_region),
        (ConfigurationError, ["'media'", "nobody"], _unknown_profile(None)),
        (ConfigurationError, ["'media'", "nobody"], _unknown_profile("eu-west-1")),
        (ConfigurationError, ["s3://bucket/prefix/", "acme-media"], lambda: Presigner("acme-media")),
        (ConfigurationError, ["'colour'", "region"], lambda: Presigner("s3://acme-media/?colour=red")),
        (
            ConfigurationError,
            ["'Range'", "VersionId"],
            _unmade("s3://acme-media/public/a", params={"Range": 1}),
        ),
        (
            ConfigurationError,
            ["method", "GET", "'PATCH'"],
            _unmade("s3://acme-media/public/a", method="PATCH"),
        ),
        (ConfigurationError, ["'curl'", "httpx"], lambda: intercept("curl")),
        (ConfigurationError, ["with presigner.scope():"], lambda: presigned(lambda url: url)("s3://a/b")),
        # The target.
        (NotCovered, ["ftp://acme-media/public/a", "s3://", "media"], _unmade("ftp://acme-media/public/a")),
        (NotCovered, ["no target", "media"], _unmade("")),
        (NotCovered, ["no key", "s3://bucket/key"], _unmade("s3://acme-media/")),
        (
            NotCovered,
            ["s3://other/public/a", "media (s3://acme-media/public/)"],
            _unmade("s3://other/public/a"),
        ),
        (NotCovered, ["s3://acme-media/private/a", "media"], _unmade("s3://acme-media/private/a")),
        (NotCovered, ["'media'", "PUT", "methods="], _unmade("s3://acme-media/public/a", method="PUT")),
        # The world.
        (
            SigningError,
            ["'media'", "no credentials", "AWS_ACCESS_KEY_ID", "profile="],
            lambda: Presigner("media=s3://acme-media/?region=eu-west-1").url("s3://acme-media/a"),
        ),
    ],
)
def test_what_is_refused(kind: type[PresignError], said: list[str], attempt: Callable[[], Any]) -> None:
    """A fault has the class of whose it is, and a message with what was given, wanted and to be done."""
    with pytest.raises(PresignError) as found:
        attempt()
    assert type(found.value) is kind
    assert [words for words in said if words not in str(found.value)] == [], str(found.value)


@pytest.mark.parametrize("target", ["s3://acme-media/public/a", "s3://other/a"])
def test_both_colours_refuse_alike(presigner: Presigner, target: str) -> None:
    """What url() refuses aurl(), urls(), aurls(), resolve() and aresolve() refuse, in the same words."""
    attempts: list[Callable[[], Any]] = [
        lambda: presigner.url(target, lifetime=1),
        lambda: presigner.urls([target], lifetime=1),
        lambda: presigner.resolve(target, lifetime=1),
        lambda: asyncio.run(presigner.aurl(target, lifetime=1)),
        lambda: asyncio.run(presigner.aurls([target], lifetime=1)),
        lambda: asyncio.run(presigner.aresolve(target, lifetime=1)),
    ]
    found = set()
    for attempt in attempts:
        with pytest.raises(PresignError) as raised:
            attempt()
        found.add((type(raised.value), str(raised.value)))
    assert len(found) == 1


# The environment.

ORIGINS = "media=s3://acme-media/public/?region=eu-west-1 archive=s3://acme-archive/?region=eu-central-1"


def test_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """from_env() makes the presigner that the variables describe."""
    monkeypatch.setenv("PRESIGN_ORIGINS", ORIGINS)
    monkeypatch.setenv("PRESIGN_LIFETIME", "900")
    monkeypatch.setenv("PRESIGN_MIN_REMAINING", "60.5")
    monkeypatch.setenv("PRESIGN_ON_ERROR", "pass")
    monkeypatch.setenv("PRESIGN_BOTO_SHARE", "0.25")
    monkeypatch.setenv("PRESIGN_LOCAL_SIZE", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    presigner = Presigner.from_env()
    assert list(presigner.origins) == ["media", "archive"]
    assert presigner.origins["media"].prefix == "public/"
    assert presigner.origins["archive"].region == "eu-central-1"
    assert Policy(lifetime=900, min_remaining=60.5, on_error="pass", boto_share=0.25) == presigner.policy
    assert "X-Amz-Expires=900" in presigner.url("s3://acme-media/public/a")
    presigner.url("s3://acme-media/public/b")
    assert presigner.stats()["evicted"] == 1


def test_one_from_env(monkeypatch: pytest.MonkeyPatch) -> None:
    """from_env() returns one presigner per process, and another one once the variables say something else."""
    monkeypatch.setenv("PRESIGN_ORIGINS", ORIGINS)
    first = Presigner.from_env()
    assert Presigner.from_env() is first
    assert asyncio.run(asyncio.to_thread(Presigner.from_env)) is first
    monkeypatch.setenv("PRESIGN_LIFETIME", "1800")
    assert Presigner.from_env() is not first


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, ["PRESIGN_ORIGINS", "presigner=", "s3://bucket/prefix/"]),
        ({"PRESIGN_ORIGINS": " "}, ["PRESIGN_ORIGINS"]),
        ({"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_LIVETIME": "9"}, ["PRESIGN_LIVETIME", "PRESIGN_LIFETIME"]),
        ({"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_LIFETIME": "1h"}, ["PRESIGN_LIFETIME", "number", "'1h'"]),
        ({"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_LIFETIME": "1.5"}, ["PRESIGN_LIFETIME", "'1.5'"]),
        ({"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_LIFETIME": "5"}, ["lifetime", "60", "got 5"]),
        ({"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_LOCAL_SIZE": "many"}, ["PRESIGN_LOCAL_SIZE", "'many'"]),
        ({"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_ON_ERROR": "stop"}, ["on_error", "raise", "pass", "'stop'"]),
        (
            {"PRESIGN_ORIGINS": ORIGINS, "PRESIGN_SHARED_READS": "no"},
            ["shared_reads", "always", "auto", "'no'"],
        ),
        ({"PRESIGN_ORIGINS": "media=acme-media"}, ["s3://bucket/prefix/", "media=acme-media"]),
    ],
)
def test_from_env_refuses(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: list[str]
) -> None:
    """Variables that cannot work are a ConfigurationError that names the variable and what was wanted."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as found:
        Presigner.from_env()
    assert [words for words in said if words not in str(found.value)] == [], str(found.value)


# Counters, and the end.


def test_stats_are_plain(presigner: Presigner) -> None:
    """stats() is a plain mapping of integers, with the promised names, that no later call changes."""
    before = presigner.stats()
    assert {"resolved", "from_scope", "from_local", "from_shared", "signed", "signed_by_boto3"} <= set(before)
    assert {int} == {type(value) for value in before.values()}
    assert {0} == set(before.values())
    presigner.url("s3://acme-media/public/a")
    assert before["signed"] == 0
    assert presigner.stats()["signed"] == 1


def test_stats_are_bounded(presigner: Presigner) -> None:
    """L2: the names of counters stay the same whatever is asked for, and no key is among them."""
    names = list(presigner.stats())
    for number in range(100):
        presigner.url(f"s3://acme-media/public/secret-{number}", params={"VersionId": f"v{number}"})
        with pytest.raises(NotCovered):
            presigner.url(f"s3://acme-media/private/secret-{number}")
    assert names == list(presigner.stats())
    assert "secret" not in str(presigner.stats())


def test_every_url_is_counted_once(presigner: Presigner) -> None:
    """resolved is the number of URLs handed out, however they came about."""
    with presigner.scope():
        presigner.urls(["s3://acme-media/public/a"] * 3)
        presigner.url("s3://acme-media/public/a")
    asyncio.run(presigner.aurls([f"s3://acme-media/public/{number % 5}" for number in range(20)]))
    presigner.resolve("s3://acme-media/public/a", method="HEAD")
    assert presigner.stats()["resolved"] == 25
    assert presigner.stats()["signed"] == 7


def test_closing_is_harmless(presigner: Presigner) -> None:
    """close() and aclose() can be called at any time, any number of times, and calls after them work."""

    async def use(**params: str) -> str:
        await presigner.aclose()
        await presigner.aclose()
        return await presigner.aurl("s3://acme-media/public/a", params=params)

    presigner.close()
    first = asyncio.run(use())
    presigner.close()
    presigner.close()
    assert presigner.url("s3://acme-media/public/a") == first
    # A further shape of URL: boto3 is asked for one in a thread.
    assert "versionId=1" in asyncio.run(use(VersionId="1"))
