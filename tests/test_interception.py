"""
``intercept()``: what it hooks and when, who counts, and that threads do not get in each other's way.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from clients import Httpx, as_found
from ways import LIBRARIES, Door, Way, presigner_for

from presign_middleware import ConfigurationError, intercept
from presign_middleware.clients.hooking import Hooks


@pytest.fixture(params=LIBRARIES, ids=[library.__name__ for library in LIBRARIES])
def way(request: pytest.FixtureRequest, door: Door) -> Iterator[Way]:
    with as_found(Httpx(request.param)):
        yield Way(request.param, is_async=False, is_explicit=False, presigner=presigner_for(door))


def in_a_new_interpreter(program: str) -> str:
    """Return what *program* prints in an interpreter that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
    assert not done.stderr
    return done.stdout.strip()


# --- names --------------------------------------------------------------------------------------------------


def test_an_unknown_client_is_refused_with_the_known_ones() -> None:
    """C1: the message has what was given and what is known, and nothing is hooked."""
    with pytest.raises(
        ConfigurationError, match=r"'gopher'.*known clients are httpx, httpx2, requests, urllib3, aiohttp"
    ):
        intercept("httpx", "gopher")


def test_only_the_named_clients_are_hooked(way: Way, door: Door) -> None:
    """C1: intercept("httpx") leaves httpx2 alone, and the other way round."""
    (other,) = set(LIBRARIES) - {way.library}
    with intercept(other.__name__):
        assert way.fetch(door.cat).status_code == 403
    with intercept(way.library.__name__):
        assert way.fetch(door.cat).status_code == 200


def test_without_a_name_every_client_is_hooked(way: Way, door: Door) -> None:
    """C1: intercept() is what the middleware does: all that are supported."""
    with intercept():
        assert way.fetch(door.cat).status_code == 200


def test_a_name_given_twice_counts_once(way: Way, door: Door) -> None:
    """C4: one remove takes back whatever one call did."""
    intercept(way.library.__name__, way.library.__name__).remove()
    assert way.fetch(door.cat).status_code == 403


# --- libraries that are not imported yet --------------------------------------------------------------------

#: What is hooked, by the client's name.
SEAMS = {
    "httpx": "HTTPTransport.handle_request",
    "httpx2": "HTTPTransport.handle_request",
    "requests": "adapters.HTTPAdapter.send",
    "urllib3": "PoolManager.urlopen",
    "aiohttp": "ClientRequest.send",
}

LATER = """
import sys
from presign_middleware import intercept
ours = intercept()
assert {client!r} not in sys.modules, "intercept imported it"
{between}
import {client}
code = {client}.{seam}.__code__
print("hooked" if "presign_middleware" in code.co_filename else "bare")
"""


def later(client: str, between: str = "") -> str:
    return in_a_new_interpreter(LATER.format(client=client, between=between, seam=SEAMS[client]))


@pytest.mark.parametrize("client", SEAMS)
def test_a_client_imported_after_the_last_remove_is_left_alone(client: str) -> None:
    """C4: what was taken back before the import does not come back with it."""
    assert later(client, "ours.remove()") == "bare"


@pytest.mark.parametrize("client", ["httpx", "aiohttp"])
def test_who_asks_again_before_the_import_is_served(client: str) -> None:
    """C1: install, remove, install, import: hooked."""
    assert later(client, "ours.remove(); again = intercept()") == "hooked"


@pytest.mark.parametrize(
    "module", ["httpx._client", "httpx2._client", "requests", "urllib3", "aiohttp.client"]
)
def test_a_client_is_hooked_when_it_is_imported(module: str) -> None:
    """C1: intercept imports no client; one that comes later is hooked, whichever module of it comes first."""
    assert later(module.partition(".")[0], f"import {module}") == "hooked"


# --- who counts ---------------------------------------------------------------------------------------------


def test_the_last_one_out_takes_the_hooks_along(way: Way, door: Door) -> None:
    """C4: two that want the hooks, as two middlewares do, do not take them from each other."""
    name = way.library.__name__
    first, second = intercept(name), intercept(name)
    first.remove()
    assert way.fetch(door.cat).status_code == 200
    second.remove()
    assert way.fetch(door.cat).status_code == 403


def test_removing_twice_takes_back_once(way: Way, door: Door) -> None:
    """C4: a second remove of one call does not count for another's."""
    name = way.library.__name__
    with intercept(name):
        other = intercept(name)
        other.remove()
        other.remove()
        assert way.fetch(door.cat).status_code == 200


def test_it_is_a_context_manager(way: Way, door: Door) -> None:
    """C4: leaving the block removes, also when an exception leaves it."""
    with contextlib.suppress(ZeroDivisionError), intercept(way.library.__name__):
        raise ZeroDivisionError
    assert way.fetch(door.cat).status_code == 403


def test_what_was_removed_can_be_put_back(way: Way, door: Door) -> None:
    """C4: install and remove any number of times: each fetch is signed at most once."""
    for _ in range(3):
        with intercept(way.library.__name__):
            assert way.fetch(door.cat).status_code == 200
    assert way.presigner.stats()["caught"] == 3


# --- threads ------------------------------------------------------------------------------------------------


def test_hooks_come_and_go_while_requests_run(way: Way, door: Door) -> None:
    """C4: each fetch is signed or not, none fails, and the last remove leaves nothing behind."""
    library = way.library
    before = vars(library.HTTPTransport)["handle_request"]
    stop, statuses, errors = threading.Event(), set[int](), list[BaseException]()

    def fetch_on() -> None:
        try:
            while not stop.is_set():
                # A new kind of transport each time, so that hooks are placed while others are removed.
                kind = type("Mine", (library.MockTransport,), {"handle_request": answer})
                statuses.add(way.fetch(door.cat, transport=kind(lambda request: None)).status_code)
        except BaseException as error:
            errors.append(error)

    def answer(transport: Any, request: Any) -> Any:
        return library.Response(200 if "X-Amz-Signature" in str(request.url) else 403)

    threads = [threading.Thread(target=fetch_on) for _ in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            intercept(library.__name__).remove()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert errors == []
    assert statuses <= {200, 403}
    assert before is vars(library.HTTPTransport)["handle_request"]
    assert way.fetch(door.cat).status_code == 403


class Meeting(type):
    """A class whose hash is taken by two threads at once, which is when hooks look whether they know it."""

    meeting = threading.Barrier(2)

    def __hash__(cls) -> int:
        # Where a lock lets only one thread look, nobody comes: the wait ends, and so do all later ones.
        with contextlib.suppress(threading.BrokenBarrierError):
            Meeting.meeting.wait(0.2)
        return id(cls)


def test_two_threads_that_meet_a_transport_at_once_hook_it_once(way: Way, door: Door) -> None:
    """C4: a class that two threads see for the first time gets one hook, which can be removed."""
    library = way.library

    def answer(transport: Any, request: Any) -> Any:
        return library.Response(200 if "X-Amz-Signature" in str(request.url) else 403)

    def fetch() -> None:
        way.fetch(door.cat, transport=kind())

    kind = Meeting("Mine", (library.BaseTransport,), {"handle_request": answer})
    Meeting.meeting = threading.Barrier(2)
    with intercept(library.__name__):
        threads = [
            threading.Thread(target=way.fetch, args=[door.cat], kwargs={"transport": kind()}) for _ in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    Meeting.meeting.abort()
    assert answer is vars(kind)["handle_request"]
    assert way.fetch(door.cat, transport=kind()).status_code == 403


def test_many_can_install_and_remove_at_once(way: Way, door: Door) -> None:
    """C4: counting loses nobody: when all have left, nothing is hooked; while one stays, it is."""
    name = way.library.__name__

    def come_and_go() -> None:
        for _ in range(200):
            intercept(name).remove()

    with intercept(name):
        threads = [threading.Thread(target=come_and_go) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert way.fetch(door.cat).status_code == 200
    assert way.fetch(door.cat).status_code == 403


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # since 3.12: a process with threads forks
def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    """M5, C4: one that was placing a hook just then, and is not in the child."""
    hooks, is_placing, is_forked = Hooks(), threading.Event(), threading.Event()

    def slowly(original: Any) -> Any:
        is_placing.set()
        is_forked.wait()
        return lambda *args: original(*args)

    class Owner:
        def send(self) -> str:
            return "bare"

    class Other(Owner):
        def send(self) -> str:
            return "bare"

    thread = threading.Thread(target=hooks.place, args=[Owner, "send", slowly])
    thread.start()
    is_placing.wait()
    child = os.fork()
    if not child:
        signal.alarm(5)  # it is ended then
        hooks.place(Other, "send", lambda original: lambda other: "hooked")
        os._exit(Other().send() != "hooked")
    is_forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
