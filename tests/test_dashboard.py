"""
The page that shows every process of a fleet: what it serves, what it knows, and what it never says.
"""

import asyncio
import gc
import json
import logging
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Final

import pytest
from dashboards import CHROMIUM, Browser, Serving
from fleet import SECRET as FLEET_SECRET
from fleet import Fleet, let_publish
from starlette.testclient import TestClient

from presign_middleware import Presigner, dashboard, presence, recent
from presign_middleware.events import tell
from presign_middleware.objects import workers_key
from presign_middleware.testing import Clock, Memcached
from presign_middleware.worker import SLOT, Row, Worker

DEADLINE: Final = 20.0
PATHS: Final = ("/", "/parts.json", "/data.json", "/page.css", "/page.js", "/icon.svg")
SECRET: Final = "6f9d1c52a07be83412f95d60cb7a4e38915de0f24b6c7783a92e1f045dc8b673"

Got = tuple[int, dict[str, str], bytes]


@pytest.fixture(autouse=True)
def nothing_recent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget what was kept, and keep nothing when the test is over; no memcached is too slow meanwhile."""
    monkeypatch.setattr(presence, "_WITHIN", 10.0)
    recent._recent.kept.clear()
    yield
    logging.getLogger("presign_middleware").removeHandler(recent._recent)


@pytest.fixture
def presigner(fleet: Fleet) -> Presigner:
    return fleet.member(None, fleet.session("ASIAONE"))


def by_wsgi(presigner: Presigner, method: str, path: str, root: str = "/presign") -> Got:
    started: list[Any] = []
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": root}
    body = b"".join(dashboard.wsgi(presigner)(environ, lambda *of: started.extend(of)))
    return int(started[0].split()[0]), dict(started[1]), body


def by_asgi(presigner: Presigner, method: str, path: str, root: str = "/presign") -> Got:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": method, "path": root + path, "root_path": root}
    asyncio.run(dashboard.asgi(presigner)(scope, receive, send))
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, sent[1]["body"]


both = pytest.mark.parametrize("get", [by_wsgi, by_asgi], ids=["wsgi", "asgi"])
Get = Callable[..., Got]


def page(presigner: Presigner) -> str:
    return by_wsgi(presigner, "GET", "/")[2].decode()


def data(presigner: Presigner) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(by_wsgi(presigner, "GET", "/data.json")[2])
    return told


def wait_until(is_so: Callable[[], bool]) -> None:
    """Wait until *is_so*, which other processes see to."""
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Outline(HTMLParser):
    """Checks that what is opened is closed, and collects what matters."""

    void: Final = {"meta", "link", "br"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts += [data.strip()] * bool(data.strip())


# --- what is served -----------------------------------------------------------------------------------------


@both
def test_get_and_head(presigner: Presigner, get: Get) -> None:
    """Each path is answered, and HEAD tells what GET does, without a body."""
    for path in PATHS:
        status, headers, body = get(presigner, "GET", path)
        assert (200, str(len(body))) == (status, headers["content-length"])
        assert get(presigner, "HEAD", path)[::2] == (200, b"")


@both
def test_what_is_not_there(presigner: Presigner, get: Get) -> None:
    """A path that is unknown is 404, a method that would change something 405."""
    assert get(presigner, "GET", "/else")[0] == 404
    assert get(presigner, "GET", "/../page.py")[0] == 404
    status, headers, _ = get(presigner, "POST", "/")
    assert (status, headers["allow"]) == (405, "GET, HEAD")


@both
def test_without_the_slash(presigner: Presigner, get: Get) -> None:
    """What the page names is beside it, so it is only served where its path ends with a slash."""
    status, headers, _ = get(presigner, "GET", "", root="/ops/presign")
    assert (status, headers["location"]) == (307, "presign/")


def test_an_asgi_path_without_its_root(presigner: Presigner) -> None:
    """A framework that leaves the root out of the path, and one that has none, get the page too."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    for root in ("", "/presign"):
        scope = {"type": "http", "method": "GET", "path": "/", "root_path": root}
        asyncio.run(dashboard.asgi(presigner)(scope, receive, send))
    assert [message["status"] for message in sent if "status" in message] == [200, 200]


@both
def test_nothing_is_from_elsewhere(presigner: Presigner, get: Get) -> None:
    """The page obeys a Content-Security-Policy without inline code or styles, and names no other host."""
    _, headers, body = get(presigner, "GET", "/")
    policy = headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    outline = Outline(body.decode())
    for tag, attributes in outline.attributes:
        assert not any(name == "style" or name.startswith("on") for name in attributes)
        assert tag != "style"
        assert tag != "script" or attributes["src"] == "page.js"
        assert not re.match("[a-z]*:|/", attributes.get("src") or attributes.get("href") or "")
    assert headers["cache-control"] == "no-store"


def test_the_page_without_javascript(presigner: Presigner) -> None:
    """All figures are in the page as the server made it, in tables with heads, and it reloads itself."""
    presigner.urls([f"s3://media/{each % 40}" for each in range(100)])
    text = page(presigner)
    outline = Outline(text)
    assert {"Healthy", "60.0 %", "99", "40", "this process had it", "media", "s3://media/"} <= set(
        outline.texts
    )
    assert f"{os.uname().nodename}:{os.getpid()}" in outline.texts
    assert '<noscript><meta http-equiv="refresh" content="10"></noscript>' in text
    scopes = [attributes.get("scope") for tag, attributes in outline.attributes if tag == "th"]
    assert None not in scopes
    named = {attributes.get("id") for _, attributes in outline.attributes}
    labels = [a["aria-labelledby"] for _, a in outline.attributes if "aria-labelledby" in a]
    assert set(labels) <= named


def test_parts_are_of_the_page(presigner: Presigner) -> None:
    """Each part that the script puts in place belongs to an element of the page."""
    parts = json.loads(by_wsgi(presigner, "GET", "/parts.json")[2])
    assert parts.keys() <= {attributes.get("id") for _, attributes in Outline(page(presigner)).attributes}


def test_data_for_machines(presigner: Presigner) -> None:
    """The JSON has the counters, the hit rate and the calls of boto3 that were not made."""
    presigner.urls([f"s3://media/{each % 40}" for each in range(100)])
    told = data(presigner)
    assert (told["health"], told["hit_rate"], told["boto3_calls_saved"]) == ("healthy", 0.6, 99)
    assert presigner.stats() == told["counts"]
    assert told["is_shared"] is False


def test_alone_it_says_so(presigner: Presigner) -> None:
    """Without a shared cache the page tells of its own process, and that it knows of no other."""
    assert "There is no shared cache, so a process knows of no other" in page(presigner)


def test_the_documented_mounts() -> None:
    """As the docs mount it, in Starlette and in Flask, operators see the page and others are refused."""
    page = Path(__file__).parent.parent / "docs/how-to/dashboard.md"
    names: dict[str, Any] = {"__name__": page.stem}
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(example, str(page), "exec"), names)
    operator = {"authorization": "Bearer what-only-operators-know"}
    for client in (TestClient(names["app"]), names["flask_app"].test_client()):
        assert client.get("/presign/").status_code == 401
        for path in ("/presign/", "/presign/data.json"):
            assert client.get(path, headers=operator).status_code == 200
    names["presigner"].close()


# --- what it knows ------------------------------------------------------------------------------------------


def test_the_history_is_in_slots(presigner: Presigner, fleet: Fleet) -> None:
    """What was handed out is told by when it was, for ten minutes."""
    presigner.urls(["s3://media/a", "s3://media/a"])
    presigner.presence.own()
    fleet.clock.advance(SLOT)
    presigner.url("s3://media/a")
    rows = list(presigner.presence.own().history.values())
    assert [Row(here=1, signed=1), Row(here=1)] == rows
    fleet.clock.advance(3600)
    assert [Row()] == list(presigner.presence.own().history.values())


def test_lives_are_sampled(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large table a few entries are looked at, and the numbers are those of all."""
    monkeypatch.setattr(presence, "_SAMPLE", 50)
    presigner = fleet.member(None, fleet.static())
    presigner.urls([f"s3://media/{each}" for each in range(1000)])
    assert len(presigner._table.sample(50)) == 50
    own = presigner.presence.own()
    assert (own.held, sum(own.ages)) == (1000, 1000)
    fleet.clock.advance(4000)
    assert presigner.presence.own().ages[0] == 1000


def test_credentials_near_their_end(fleet: Fleet) -> None:
    """P5: credentials that should have been renewed long ago turn the page red, and it says what to do."""
    presigner = fleet.member(None, fleet.session("ASIAONE", seconds=3600))
    presigner.url("s3://media/a")
    assert data(presigner)["health"] == "healthy"
    fleet.clock.advance(3400)
    told = data(presigner)
    assert (told["health"], [each["since"] for each in told["findings"]]) == ("attention", ["in 3 min 20 s"])
    assert '<td class="failing">in 3 min 20 s</td>' in page(presigner)
    fleet.clock.advance(210)
    assert (data(presigner)["health"], data(presigner)["findings"][0]["since"]) == ("failing", "10 s ago")


def test_failures_are_told_with_when(fleet: Fleet, clock: Clock) -> None:
    """What failed is told for five minutes, and since when."""
    presigner = fleet.member(None, fleet.static())
    presigner.counts.of("media").failed += 3
    findings = data(presigner)["findings"]
    at = time.strftime("%H:%M UTC", time.gmtime(int(fleet.clock.time()) // SLOT * SLOT))
    assert [f"since {at} last at {at}"] == [each["since"] for each in findings]
    assert "3 URLs could not be signed" in page(presigner)
    fleet.clock.advance(400)
    assert data(presigner)["findings"] == []


def test_a_memcached_that_is_down(fleet: Fleet, memcached: Memcached) -> None:
    """M1: each server is told with the state of its breaker, and that URLs are signed meanwhile."""
    presigner = fleet.member(f"memcached://{memcached.address}", fleet.session("ASIAONE"))
    presigner.url("s3://media/a")
    let_publish(presigner)
    assert {memcached.address: None} == data(presigner)["workers"][0]["servers"]
    memcached.stop()
    presigner.url("s3://media/b")
    told = data(presigner)
    assert told["workers"][0]["servers"][memcached.address] >= 0
    assert f"memcached {memcached.address} does not answer" in told["findings"][0]["what"]
    assert told["health"] == "attention"
    assert [each["event"] for each in told["workers"][0]["happenings"]] == ["shared_failed"]


def test_recent_events(presigner: Presigner, caplog: pytest.LogCaptureFixture) -> None:
    """L2: events are shown as they were logged, the newest first; others, which may name keys, are not."""
    page(presigner)
    logger = logging.getLogger("presign_middleware.test")
    logger.warning("a fetch of secret-name")
    for number in (1, 2):
        tell(logger, logging.WARNING, "clock_stepped", "set by %d s", number, seconds=number)
    text = page(presigner)
    assert "secret-name" not in text
    assert 0 < text.index("set by 2 s") < text.index("set by 1 s")


def test_events_are_bounded(presigner: Presigner) -> None:
    """However much happens, a few events are kept."""
    page(presigner)
    for number in range(200):
        tell(logging.getLogger("presign_middleware.test"), 30, "clock_stepped", "%s", "x" * number * 10)
    assert (len(recent._recent.kept), len(recent._recent.kept[-1].text)) == (50, 300)


def test_warnings_are_still_heard(capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody has configured logging, warnings go to stderr though there is a handler now."""
    recent.listen()
    logger, root = logging.getLogger("presign_middleware.test"), logging.getLogger()
    configured, root.handlers = root.handlers, []
    try:
        logger.warning("heard")
    finally:
        root.handlers = configured
    logger.warning("not twice")
    assert capsys.readouterr().err == "heard\n"


# --- all processes ------------------------------------------------------------------------------------------


def test_every_process_is_shown(memcached: Memcached) -> None:
    """Processes that share a memcached are shown by each other's pages, with their sums, until they end."""
    shared = f"memcached://{memcached.address}"
    with ExitStack() as stack:
        one, two = [stack.enter_context(Serving(shared)) for _ in range(2)]
        published = stack.enter_context(Serving(shared, shown="publish"))
        by_variable = stack.enter_context(Serving(shared, shown="", PRESIGN_DASHBOARD="1"))
        for begin, process in enumerate((one, two, published, by_variable)):
            process.sign(10, begin * 10)
        seen = {one.pid, two.pid, published.pid, by_variable.pid}
        wait_until(lambda: one.pids() == seen == two.pids())
        wait_until(lambda: one.data()["counts"]["resolved"] == 40)
        by_variable.end()
        wait_until(lambda: one.pids() == {one.pid, two.pid, published.pid})
        two.kill()
        wait_until(lambda: one.pids() == {one.pid, published.pid})


def test_nobody_is_shown_who_was_not_asked(fleet: Fleet, memcached: Memcached) -> None:
    """A presigner leaves nothing for others, and begins no thread, unless somebody asks for it."""
    presigner = fleet.member(f"memcached://{memcached.address}", fleet.session("ASIAONE"))
    presigner.url("s3://media/a")
    assert presigner.presence._closing is None
    found = presigner.presence._shared.notes([workers_key("")], time.monotonic() + 5)  # type: ignore[union-attr]
    assert found == {}


def told_by(presigner: Presigner) -> None:
    """Have *presigner* leave a note now, as its thread does."""
    presigner.presence._tell(presigner.presence._shared)  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "is_shown"), [("1", True), ("0", False), ("", False)])
def test_the_variable(monkeypatch: pytest.MonkeyPatch, value: str, is_shown: bool) -> None:
    """PRESIGN_DASHBOARD=1 has any presigner's process shown, that of the environment too."""
    monkeypatch.setenv("PRESIGN_ORIGINS", "s3://acme-media?region=eu-west-1")
    monkeypatch.setenv("PRESIGN_DASHBOARD", value)
    monkeypatch.setattr(Presigner, "_from_env", {})
    for presigner in (Presigner.from_env(), Presigner("s3://acme-media?region=eu-west-1")):
        assert (presigner.presence._closing is not None) is is_shown
        presigner.close()
        assert presigner.presence._closing is None


def test_a_forgotten_presigner(memcached: Memcached) -> None:
    """The thread of a presigner that nobody holds any more ends by itself, and holds nothing of it."""
    presigner = Presigner("s3://acme-media?region=eu-west-1", shared=f"memcached://{memcached.address}")
    presigner.show()
    held = weakref.ref(presigner.presence)
    del presigner
    gc.collect()
    assert held() is None


def test_many_that_come_at_once(fleet: Fleet, memcached: Memcached) -> None:
    """The list has everybody, also where all of them found it empty."""
    shared = f"memcached://{memcached.address}"
    members = [fleet.member(shared, fleet.session(f"ASIA{each}")) for each in range(8)]

    async def tell_all() -> None:
        await asyncio.gather(*[asyncio.to_thread(told_by, member) for member in members])

    asyncio.run(tell_all())
    workers, is_whole = members[0].presence.all()
    assert (len(workers), is_whole) == (8, True)


@pytest.mark.parametrize("lost", ["list", "note"])
def test_what_is_lost_comes_back(fleet: Fleet, memcached: Memcached, lost: str) -> None:
    """M4: a list or a note that memcached has dropped, or that is damaged, is left anew."""
    shared = f"memcached://{memcached.address}"
    one, two = (fleet.member(shared, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    told_by(one)
    told_by(two)
    key = two.presence._list if lost == "list" else two.presence._key
    memcached_client = two.presence._shared._servers  # type: ignore[union-attr]

    def spoil(client: Any, own: Any) -> list[str]:
        client.set(key, b"\xff not what anybody has left", noreply=True)
        return [key]  # asked for, so that it is there by the time of the answer

    memcached_client.write({key: None}, spoil, time.monotonic() + 5)
    assert len(one.presence.all()[0]) == 1
    told_by(one)
    told_by(two)
    one.presence._read_at = float("-inf")
    assert len(one.presence.all()[0]) == 2


def test_namespaces_do_not_see_each_other(fleet: Fleet, memcached: Memcached) -> None:
    """K1: processes of another namespace are not shown."""
    shared = f"memcached://{memcached.address}"
    one = fleet.member(shared, fleet.session("ASIAONE"))
    told_by(fleet.member(shared, fleet.session("ASIATWO"), namespace="other"))
    assert len(one.presence.all()[0]) == 1


def test_notes_are_sealed(fleet: Fleet, memcached: Memcached) -> None:
    """K5: with a secret, notes are sealed as entries are, and others' are not believed."""
    shared = f"memcached://{memcached.address}"
    one, two = (fleet.member(shared, fleet.session(name), secret=SECRET) for name in ("ASIAONE", "ASIATWO"))
    stranger = fleet.member(shared, fleet.session("ASIATHREE"))
    told_by(one)
    told_by(two)
    stored = stranger.presence._shared.notes([two.presence._key], time.monotonic() + 5)  # type: ignore[union-attr]
    assert stored is not None
    assert b"host" not in stored[two.presence._key][0]
    assert len(one.presence.all()[0]) == 2
    assert len(stranger.presence.all()[0]) == 1


def test_forks_are_shown(memcached: Memcached) -> None:
    """A child forked after the page was mounted is shown; its parent, which hands out nothing, is not."""
    shared = f"memcached://{memcached.address}"
    with Serving(shared) as one, Serving(shared, shown="fork") as forked:
        one.sign(1)
        forked.sign(1)
        wait_until(lambda: len(one.pids()) == 2)
        assert forked.pid not in one.pids()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.update(pid="1"),
        lambda told: told.update(pid=-1),
        lambda told: told.update(held=True),
        lambda told: told.update(at=float("nan")),
        lambda told: told.update(at=10**400),
        lambda told: told.update(ages=[1]),
        lambda told: told.update(history={"x": [0] * 7}),
        lambda told: told.update(history={"1": [0]}),
        lambda told: told.update(origins={"media": {}}),
        lambda told: told.update(servers=[]),
        lambda told: told.update(happenings=[[1, 2, 3, 4]]),
        lambda told: told.pop("host"),
    ],
)
def test_a_damaged_note(presigner: Presigner, spoil: Callable[[dict[str, Any]], object]) -> None:
    """M4: a note that has not the form of one is nobody's."""
    note = presigner.presence.own().encode()
    assert Worker.decode(note) == presigner.presence.own()
    told = json.loads(note)
    spoil(told)
    assert Worker.decode(json.dumps(told).encode()) is None


@pytest.mark.parametrize("note", [b"", b"[" * 60_000, b"7", b"[]", b"\xff"])
def test_a_foreign_note(note: bytes) -> None:
    """M4: a value that somebody else has put there raises nothing."""
    assert Worker.decode(note) is None


def test_a_note_that_is_too_long(presigner: Presigner) -> None:
    """M4: a value far larger than any process leaves is not read, whatever its form."""
    note = presigner.presence.own().encode()
    assert Worker.decode(note + b" " * 1000) is not None
    assert Worker.decode(note + b" " * 70_000) is None


def test_a_foreign_note_is_only_text(fleet: Fleet, memcached: Memcached) -> None:
    """Whatever stands in a note, none of it becomes a part of the page but its text."""
    shared = f"memcached://{memcached.address}"
    one, two = (fleet.member(shared, fleet.session(name)) for name in ("ASIAONE", "ASIATWO"))
    bad = "<script>alert(1)</script>\"'&"
    two.presence._host = bad
    two.presence._origins = list
    recent._recent.kept.append(recent.Happening(0.0, bad, bad, bad))
    told_by(two)
    outline = Outline(page(one))
    assert any(bad in text for text in outline.texts)
    assert [attributes.get("src") for tag, attributes in outline.attributes if tag == "script"] == ["page.js"]


# --- what it never says -------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET], ids=["clear", "sealed"])
def test_nothing_secret_is_served(fleet: Fleet, memcached: Memcached, secret: str | None) -> None:
    """L1: no byte that is served or left for others holds a key, a URL, a token, a signature or a secret."""
    shared = f"memcached://{memcached.address}"
    one, two = (fleet.member(shared, fleet.session(name), secret=secret) for name in ("ASIAONE", "ASIATWO"))
    urls = [url for member in (one, two) for url in member.urls(["s3://media/secret-name", "s3://media/b"])]
    two.revoke("media")
    two.presence.is_asked = True
    told_by(two)
    served = b"".join([get(one, "GET", path)[2] for get in (by_wsgi, by_asgi) for path in PATHS])
    assert len(one.presence.all()[0]) == 2
    said = (served + two.presence.own().encode()).decode()
    assert "s3://media/" in said
    signatures = re.findall("X-Amz-Signature=(.*)", " ".join(urls))
    hidden = ["secret-name", "X-Amz", "https://", "ASIA", "token+of", FLEET_SECRET, SECRET, *signatures]
    assert [each for each in hidden if each in said] == []


# --- in a browser -------------------------------------------------------------------------------------------

in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is here")


@in_a_browser
def test_the_page_lives(memcached: Memcached) -> None:
    """Under load figures move by themselves, nothing scrolls sideways, and the console stays empty."""
    with Serving(f"memcached://{memcached.address}") as one, Browser() as browser:
        one.sign(10)
        for width, scheme in ((1440, "light"), (360, "dark")):
            browser.open(one.base, width=width, scheme=scheme)
            before = browser.value("figures.textContent")
            one.sign(50)
            moved = browser.value(
                "new Promise(done => new MutationObserver(() => done(figures.textContent))"
                ".observe(figures, {childList: true}) ?? setTimeout(() => done(figures.textContent), 15000))"
            )
            assert before != moved
            assert width == browser.value("document.documentElement.scrollWidth")
            back = browser.value("getComputedStyle(document.body).backgroundColor")
            assert (scheme == "dark") == (int(re.findall(r"\d+", back)[0]) < 128)
        assert browser.complaints == []


@in_a_browser
def test_the_page_says_that_it_is_old(memcached: Memcached) -> None:
    """Where nobody answers any more, the page says so."""
    with Serving(f"memcached://{memcached.address}") as one, Browser() as browser:
        browser.open(one.base, width=1440)
        assert browser.value("lost.hidden") is True
        one.kill()
        assert browser.value("renew().then(() => lost.hidden)") is False
