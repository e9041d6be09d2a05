"""
The runbooks, tried on a real S3 server and a real memcached: what they say is seen, and their commands work.

Commands are taken from the pages, and run in the environment that an application has.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Final

import boto3
import httpx
import pytest
from faults import eventually
from fleet import PATIENT, access_key, let_publish

from presign_middleware import Origin, Policy, Presigner, intercept
from presign_middleware.events import EVENTS
from presign_middleware.testing import Memcached, SeaweedFS

PAGES: Final = Path(__file__).parent.parent / "docs" / "operations"
BOOKS: Final = sorted(path.stem for path in PAGES.glob("*.md") if path.stem != "README")
BLOCK: Final = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
WORD: Final = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+)+)`")
DEADLINE: Final = 30.0  # seconds after which a test that has gone wrong stops waiting

BUCKET: Final = "acme-media"
CAT: Final = f"s3://{BUCKET}/public/cat.jpg"
BODY: Final = b"a private cat"

#: The plain forms of the command line.
FORMS: Final = re.compile(r"presign-middleware (doctor|stats|(explain|invalidate) s3://\S+|revoke media)")

#: What the page "Runbooks" has in the place of the command line.
BY_HAND: Final = """#!{python}
import sys
from presign_middleware import Presigner

presigner = Presigner.from_env()
command, *names = sys.argv[1:]
if command == "doctor":
    presigner.url({target!r})
elif command == "stats":
    print(presigner.stats())
elif command == "explain":
    print(presigner.explain(*names))
else:
    getattr(presigner, command)(*names)
errors = presigner.stats()["shared_errors"]
presigner.close()
sys.exit(errors)
"""


def commands(page: str) -> list[str]:
    """Return the commands of a page, block by block."""
    return BLOCK.findall((PAGES / f"{page}.md").read_text())


class Operator:
    """Whoever was woken up, in a container of the application."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def run(self, command: str, **variables: str) -> str:
        """Return what *command* prints."""
        done = subprocess.run(
            ["bash", "-ec", command],
            env={**os.environ, **self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr  # what a command says of its own, the doctor's sums
        return done.stdout

    def block(self, page: str, holding: str, **variables: str) -> str:
        """Run the commands of the first block of *page* that holds this text."""
        return self.run(next(block for block in commands(page) if holding in block), **variables)


class Application:
    """A process of the application, with the configuration that the operator has in the environment."""

    def __init__(self, server: SeaweedFS, memcached: Memcached, switch: Path, tools: Path) -> None:
        self.server = server
        self.switch = switch
        self.shared = memcached.url
        self._keys = (server.access_key, server.secret_key)
        self._stack = ExitStack()
        path = f"{tools}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.operator = Operator(
            {
                "PATH": path,
                "PYTHONPATH": str(Path(__file__).parent.parent),
                "PRESIGN_ORIGINS": f"media=s3://{BUCKET}/public/?region={server.region}",
                "PRESIGN_SHARED": self.shared,
                "PRESIGN_SHARED_PATIENCE": str(PATIENT),
                "PRESIGN_ROLLOUT_FILE": str(switch),
                "MEMCACHED": memcached.address,
                "AWS_ENDPOINT_URL": server.endpoint_url,
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
            }
        )

    def process(self, *, keys: tuple[str, ...] = (), **options: Any) -> Presigner:
        """Return the presigner of another process."""
        access, secret, *token = keys or self._keys
        session = boto3.Session(access, secret, token[0] if token else None, region_name=self.server.region)
        origin = Origin(
            "media",
            bucket=BUCKET,
            prefix="public/",
            endpoint_url=self.server.endpoint_url,
            session=session,
        )
        policy = Policy(shared_patience=PATIENT, invalidation_lag=0.1)
        given: dict[str, Any] = {"shared": self.shared, "rollout": self.switch, "policy": policy, **options}
        presigner = Presigner(origin, **given)
        self._stack.callback(presigner.close)
        return presigner

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with the command line, where this version has none of these commands."""
    tools = tmp_path_factory.mktemp("tools")
    known = subprocess.run(
        [sys.executable, "-m", "presign_middleware", "revoke", "--help"], capture_output=True, check=False
    )
    if known.returncode:
        program = tools / "presign-middleware"
        program.write_text(BY_HAND.format(python=sys.executable, target=CAT))
        program.chmod(0o755)
    return tools


@pytest.fixture(scope="module")
def filled(seaweedfs: SeaweedFS) -> SeaweedFS:
    client = seaweedfs.client()
    client.create_bucket(Bucket=BUCKET)
    client.close()
    return seaweedfs


@pytest.fixture
def application(
    filled: SeaweedFS, memcached: Memcached, tmp_path: Path, tools: Path
) -> Iterator[Application]:
    client = filled.client()
    client.put_object(Bucket=BUCKET, Key="public/cat.jpg", Body=BODY)
    client.close()
    switch = tmp_path / "rollout"
    switch.write_text("1\n")
    application = Application(filled, memcached, switch, tools)
    yield application
    application.close()


def status(url: str) -> int:
    """Return what S3 says to a browser."""
    return httpx.get(url).status_code


def asked(presigner: Presigner, requests: int = 1) -> None:
    for _ in range(requests):
        with presigner.scope():
            assert status(presigner.url(CAT)) == 200


def later(presigner: Presigner) -> None:
    """Have two seconds pass, after which the switch is read again."""
    presigner._rollout.due = float("-inf")


def grown(presigner: Presigner, before: dict[str, int]) -> set[str]:
    return {name for name, value in presigner.stats().items() if value > before[name]}


# --- the pages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", BOOKS)
def test_a_runbook_has_four_parts(page: str) -> None:
    """What is seen, what it means, what to do, and how to know that it is over; about a screen."""
    text = (PAGES / f"{page}.md").read_text()
    assert "It is over" in text
    assert len(text.splitlines()) <= 60
    assert f"({page}.md)" in (PAGES / "README.md").read_text()


@pytest.mark.parametrize("page", ["README", *BOOKS])
def test_what_is_named_is_there(page: str) -> None:
    """Counters, events, settings and fields that a page names are ones that there are."""
    known = {*Presigner("s3://acme-media/?region=eu-west-1").stats(), *EVENTS, *Policy.__dataclass_fields__}
    known |= {"local_size", "presign_event", "curr_connections"}
    text = (PAGES / f"{page}.md").read_text()
    assert {word for word in WORD.findall(text) if not word.endswith("_")} <= known


@pytest.mark.parametrize("page", ["README", *BOOKS])
def test_the_command_line_is_used_plainly(page: str) -> None:
    """Commands are in the forms that every version has."""
    lines = [line for block in commands(page) for line in block.splitlines()]
    for line in [line for line in lines if line.startswith("presign-middleware")]:
        assert FORMS.fullmatch(line), line


# --- first rollout ------------------------------------------------------------------------------------------


def test_first_rollout(application: Application) -> None:
    """The commands of the page, one after another: off, a little, half, all, and back."""
    operator, process = application.operator, application.process()
    process._arms._chance = Random(7)
    check, off, steps, back = commands("first-rollout")
    said = operator.run(check)
    assert f"asked for    GET {CAT}" in said
    assert "origin media" in said
    shares = []
    for command in [off, *steps.splitlines(), back]:
        operator.run(command)
        later(process)
        before = process.stats()
        asked(process, 10)
        shares.append(process.rollout)
        found = grown(process, before)
        if process.rollout == 0:
            assert {"resolved_by_boto3", "signed_by_boto3"} <= found
            assert not found & {"resolved_by_cache", "from_local"}
        if process.rollout == 1:
            assert found & {"resolved_by_boto3", "resolved_by_cache"} == set()
    assert shares == [0, 0.01, 0.1, 0.5, 1, 0]
    stats = process.stats()
    assert {stats[name] for name in ("failed", "unhealed", "passed_on_error", "shared_errors")} == {0}
    each = [stats[f"nanoseconds_by_{arm}"] / stats[f"resolved_by_{arm}"] for arm in ("cache", "boto3")]
    assert min(each) > 0


# --- credential rotation ------------------------------------------------------------------------------------


def test_credential_rotation(application: Application) -> None:
    """K6: two keys at once: each signs its own URLs, both work, and what is out goes on working."""
    said = application.operator.block("credential-rotation", "explain")
    assert "credentials  boto3's default chain" in said
    before, server = application.process(), application.server
    old = before.url(CAT)
    let_publish(before)
    sts = server.sts_client()
    keys = sts.assume_role(RoleArn=server.role_arn, RoleSessionName="new")["Credentials"]
    sts.close()
    after = application.process(keys=(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]))
    new = after.url(CAT)
    assert [access_key(url) for url in (old, new)] == [server.access_key, keys["AccessKeyId"]]
    assert [status(url) for url in (old, new)] == [200, 200]
    application.operator.block("credential-rotation", "revoke media")
    eventually(lambda: after.url(CAT) != new, DEADLINE)
    assert status(after.url(CAT)) == 200


def test_a_source_that_fails_is_seen() -> None:
    """`credentials_failed` grows, and `failed` with it where nothing is at hand."""
    process = Presigner(Origin("media", bucket=BUCKET, region="us-east-1"))
    with pytest.raises(Exception, match="no credentials were found"):
        process.url(CAT)
    stats = process.stats()
    assert (stats["credentials_failed"], stats["failed"]) == (1, 1)


# --- a leaked URL -------------------------------------------------------------------------------------------


def test_a_leaked_url(application: Application) -> None:
    """It works on after `invalidate`, which gives the others another one, and ends with its object."""
    operator, process = application.operator, application.process()
    leaked = process.url(CAT)
    assert operator.block("leaked-url", "curl", URL=leaked) == "200\n"
    operator.block("leaked-url", "invalidate")
    eventually(lambda: process.url(CAT) != leaked, DEADLINE)
    assert operator.block("leaked-url", "curl", URL=leaked) == "200\n"
    client = application.server.client()
    source = {"Bucket": BUCKET, "Key": "public/cat.jpg"}
    client.copy_object(Bucket=BUCKET, Key="public/other.jpg", CopySource=source)
    client.delete_object(**source)
    client.close()
    assert operator.block("leaked-url", "curl", URL=leaked) == "404\n"
    assert status(process.url(f"s3://{BUCKET}/public/other.jpg")) == 200
    other = process.url(f"s3://{BUCKET}/public/other.jpg")
    operator.block("leaked-url", "revoke media")
    eventually(lambda: process.url(f"s3://{BUCKET}/public/other.jpg") != other, DEADLINE)


# --- memcached is down --------------------------------------------------------------------------------------


def test_memcached_is_down(application: Application, memcached: Memcached) -> None:
    """Seen in counters and `explain`; nothing fails; over when `from_shared` grows."""
    operator = application.operator
    other, process = application.process(), application.process()
    check = next(block for block in commands("memcached-down") if "$MEMCACHED" in block)
    said = operator.run("\n".join(line for line in check.splitlines() if "presign-middleware" not in line))
    assert "uptime" in said
    assert "evictions" in said
    asked(process)
    memcached.kill()
    before = process.stats()
    for number in range(5):
        process.url(f"s3://{BUCKET}/public/{number}")
    assert {"shared_errors", "shared_skipped", "signed"} <= grown(process, before)
    assert "from_shared" not in grown(process, before)
    assert process.stats()["failed"] == 0
    kept = process.url(CAT)
    assert "shared cache down" in str(process.explain(CAT))
    asked(process)
    operator.block("memcached-down", "echo 0")
    later(process)
    before = process.stats()
    asked(process, 3)
    eventually(lambda: process.url(CAT) != kept, DEADLINE)  # boto3 makes another each second
    found = grown(process, before)
    assert "resolved_by_boto3" in found
    assert not found & {"shared_errors", "shared_misses", "from_shared", "epochs_unread"}
    application.switch.write_text("1")
    later(process)
    memcached.start()

    names = count(100)

    def is_over() -> bool:
        target, before = f"s3://{BUCKET}/public/{next(names)}", process.stats()
        other.url(target)
        let_publish(other)
        process.url(target)
        return "from_shared" in grown(process, before)

    eventually(is_over, DEADLINE)


# --- the hit rate fell --------------------------------------------------------------------------------------


def test_the_hit_rate_fell(application: Application, memcached: Memcached) -> None:
    """Of each cause that the page names, the counter that tells it grows."""
    process = application.process(local_size=1)
    first, second = CAT, f"s3://{BUCKET}/public/dog.jpg"

    def grows(name: str) -> bool:
        before = process.stats()
        for target in (first, second, first):
            process.url(target)
        let_publish(process)
        return {name, "resolved"} <= grown(process, before)

    assert grows("evicted")
    memcached.flush()
    assert grows("shared_misses")
    application.operator.run("echo 0 > $PRESIGN_ROLLOUT_FILE")
    later(process)
    assert grows("resolved_by_boto3")
    application.operator.run("echo 1 > $PRESIGN_ROLLOUT_FILE")
    later(process)
    assert not grows("resolved_by_boto3")
    sealed = application.process(secret="a secret of 32 bytes and some more")
    assert status(sealed.url(CAT)) == 200
    assert sealed.stats()["shared_rejected"] > 0
    assert "signed as" in application.operator.block("hit-rate-fell", "explain")


# --- URLs are refused ---------------------------------------------------------------------------------------


def test_urls_are_refused(application: Application) -> None:
    """A wrong secret: `unhealed` grows, boto3's URLs are refused as well, and S3 says why."""
    operator = application.operator
    wrong = application.process(keys=(application.server.access_key, "not-the-secret"), shared=None)
    cat = f"{application.server.endpoint_url}/{BUCKET}/public/cat.jpg"
    with intercept("httpx"), wrong.scope():
        assert status(cat) == 403
    assert wrong.stats()["unhealed"] == 1
    operator.block("urls-refused", "echo 0")
    later(wrong)
    refused = wrong.url(CAT)
    assert wrong.stats()["resolved_by_boto3"] == 1
    assert status(refused) == 403
    assert "<Code>SignatureDoesNotMatch</Code>" in operator.block("urls-refused", "curl", URL=refused)
    right = application.process()
    assert status(right.url(CAT)) == 200
    assert "learned      nothing" in operator.block("urls-refused", "explain")
    operator.block("urls-refused", "revoke media")
