"""
The hooks on botocore: on which classes, for how long, and that they leave no trace.
"""

import subprocess
import sys
from itertools import permutations
from typing import Any

import boto3
import botocore.client
import pytest
import wrapt

from presign_middleware import Origin, Presigner, intercept
from presign_middleware.interception import Interception

KEYS = boto3.Session("AKIABOTOCORE00000002", "a-secret-of-test-botocore-hooks", region_name="eu-west-1")
PRESIGNER = Presigner(Origin("media", bucket="acme-media", region="eu-west-1", session=KEYS))

CREATOR = vars(botocore.client.ClientCreator)["_create_client_class"]


def method(client: Any) -> Any:
    return vars(type(client))["generate_presigned_url"]


BARE = method(KEYS.client("s3"))


def is_answered(client: Any) -> bool:
    """Return whether *client* is answered from the cache inside a scope."""
    before = PRESIGNER.stats()["caught"]
    with PRESIGNER.scope():
        client.generate_presigned_url("get_object", Params={"Bucket": "acme-media", "Key": "cat.jpg"})
    return PRESIGNER.stats()["caught"] > before


def test_clients_made_before_and_after_are_hooked_and_let_go() -> None:
    """C4: what the last remove leaves is what was there: of the classes, and where these are made."""
    before = KEYS.client("s3")
    with intercept("botocore"):
        after = KEYS.client("s3")
        assert [is_answered(client) for client in (before, after)] == [True, True]
    assert [method(client) for client in (before, after, KEYS.client("s3"))] == [BARE] * 3
    assert CREATOR is vars(botocore.client.ClientCreator)["_create_client_class"]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_hooks_can_be_taken_back_in_any_order(order: tuple[int, ...]) -> None:
    """C4: of three who want them, each with a client of its own: they go with the last one."""
    wanted: list[Interception] = []
    clients = [KEYS.client("s3")]
    for number in range(3):
        wanted.append(intercept("botocore", upgrade=number != 1))
        clients.append(KEYS.client("s3", config=botocore.client.Config(signature_version="s3v4")))
    for place, number in enumerate(order):
        assert [is_answered(client) for client in clients[1:]] == [True] * 3
        wanted[number].remove()
        wanted[number].remove()
        assert is_answered(clients[0]) == (1 in order[: place + 1] and place < 2)
    assert [method(client) for client in clients] == [BARE] * 4
    assert CREATOR is vars(botocore.client.ClientCreator)["_create_client_class"]


def test_other_services_are_not_hooked() -> None:
    """C4: only S3 has objects; the links of others are not even looked at."""
    with intercept("botocore"):
        assert method(KEYS.client("sts")) is BARE


def test_the_hook_looks_like_what_it_stands_for() -> None:
    """C4: name, signature and documentation are botocore's."""
    with intercept("botocore"):
        ours = method(KEYS.client("s3"))
    assert (BARE.__name__, BARE.__doc__, BARE) == (ours.__name__, ours.__doc__, ours.__wrapped__)


def test_a_wrong_call_is_told_by_botocore() -> None:
    """C4: what the method does not take is its own TypeError."""
    with (
        intercept("botocore"),
        PRESIGNER.scope(),
        pytest.raises(TypeError, match=r"generate_presigned_url\(\)"),
    ):
        KEYS.client("s3").generate_presigned_url("get_object", Parameters={})


@pytest.mark.parametrize("is_ours_first", [True, False])
def test_another_tools_wrapper_stays_and_sees_the_call(is_ours_first: bool) -> None:
    """C4: ours is inside of a wrapt wrapper, whoever came first, and leaves it in place."""
    seen = []

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append(args)
        return wrapped(*args, **kwargs)

    client = KEYS.client("s3")
    hooks = intercept("botocore") if is_ours_first else None
    wrapt.wrap_function_wrapper(type(client), "generate_presigned_url", wrapper)
    hooks = hooks or intercept("botocore")
    assert is_answered(client)
    hooks.remove()
    assert not is_answered(client)
    assert len(seen) == 2
    assert method(client).__wrapped__ is BARE


@pytest.mark.parametrize("at", ["the class", "the event"])
def test_a_method_that_is_not_botocores_own_is_left_alone(at: str) -> None:
    """C4, C6: it may refuse what boto3 would sign, and is asked each time."""

    def refusing(client: Any, operation: str, **call: Any) -> Any:
        if call["Params"]["Key"] != "cat.jpg":
            raise PermissionError
        return BARE(client, operation, **call)

    session = boto3.Session("AKIABOTOCORE00000002", "a-secret-of-test-botocore-hooks", None, "eu-west-1")
    if at == "the event":
        session.events.register_last(
            "creating-client-class",
            lambda class_attributes, **_: class_attributes.update(generate_presigned_url=refusing),
        )
    client = session.client("s3")
    type(client).generate_presigned_url = refusing
    with intercept("botocore"):
        client = client if at == "the class" else session.client("s3")
        assert not is_answered(client)
        with PRESIGNER.scope(), pytest.raises(PermissionError):
            client.generate_presigned_url("get_object", Params={"Bucket": "acme-media", "Key": "secret"})
    assert method(client) is refusing


def test_a_hook_that_someone_else_keeps_does_nothing_any_more() -> None:
    """C4: a tool that has put a plain function around ours makes it irremovable, and it is inert."""
    client = KEYS.client("s3")
    with intercept("botocore"):
        ours = method(client)
        type(client).generate_presigned_url = lambda *args, **kwargs: ours(*args, **kwargs)
        assert is_answered(client)
    assert not is_answered(client)


LATER = """
import sys
from presign_middleware import intercept
hooks = intercept()
import botocore.exceptions
assert "botocore.client" not in sys.modules, "the hook imported it"
import boto3
client = boto3.client("s3", region_name="eu-west-1")
print("presign_middleware" in client.generate_presigned_url.__code__.co_filename)
hooks.remove()
print("presign_middleware" in client.generate_presigned_url.__code__.co_filename)
"""


def test_botocore_is_hooked_when_it_is_imported() -> None:
    """C1: intercept imports nothing; of botocore it waits for the module that makes clients."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", LATER], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["True", "False"], "")
