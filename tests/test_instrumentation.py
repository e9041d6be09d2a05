"""
OpenTelemetry and Sentry, the real ones, beside the hooks: nobody disturbs anybody, or is told a signature.

A `Tool` is one of them for one client; `TOOLS` has the rows, and a client without one fails a test.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import opentelemetry.baggage
import opentelemetry.context
import pytest
import sentry_sdk
import sentry_sdk.integrations
from clients import CLIENTS, Asked, Fetcher, Front, as_found, changed, fetchers
from opentelemetry.instrumentation import _semconv
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor, HTTPXClientInstrumentor
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.aiohttp import AioHttpIntegration
from sentry_sdk.integrations.httpx import HttpxIntegration
from sentry_sdk.integrations.httpx2 import Httpx2Integration
from sentry_sdk.integrations.stdlib import StdlibIntegration
from sentry_sdk.transport import Transport

SIGNATURE = "X-Amz-"


class Tool:
    """One tool on one client, and what it has exported."""

    headers: tuple[str, ...]  #: that it sends along

    def install(self) -> None:
        raise NotImplementedError

    def remove(self) -> None:
        raise NotImplementedError

    def at_work(self) -> contextlib.AbstractContextManager[object]:
        """Be in a trace, as the application's framework sees to."""
        raise NotImplementedError

    def exported(self) -> tuple[list[str], str]:
        """Return the URLs that it tells of, and all that it tells, since it was asked last."""
        raise NotImplementedError


class OpenTelemetry(Tool):
    headers = ("traceparent", "baggage")

    def __init__(self, instrumentor: Callable[[], Any]) -> None:
        self.instrumentor = instrumentor()
        self._memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._memory))

    def install(self) -> None:
        self.instrumentor.instrument(tracer_provider=self.provider)

    def remove(self) -> None:
        self.instrumentor.uninstrument()

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        token = opentelemetry.context.attach(opentelemetry.baggage.set_baggage("who", "me"))
        try:
            yield
        finally:
            opentelemetry.context.detach(token)

    def exported(self) -> tuple[list[str], str]:
        spans = self._memory.get_finished_spans()
        self._memory.clear()
        attributes = [dict(span.attributes or {}) for span in spans]
        urls = [str(one[name]) for one in attributes for name in ("http.url", "url.full")]
        return urls, "".join(span.to_json() for span in spans)


class Sentry(Tool):
    """Sentry has no way to take its patches back: to remove it is to leave the process without a client."""

    headers = ("sentry-trace", "baggage")

    def __init__(self, integration: type[sentry_sdk.integrations.Integration]) -> None:
        self._integration = integration
        self._envelopes: list[Envelope] = []

    def install(self) -> None:
        sentry_sdk.integrations._processed_integrations.discard(self._integration.identifier)
        sentry_sdk.init(
            "http://public@sentry.invalid/1",
            transport=_into(self._envelopes),
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[self._integration()],
            traces_sample_rate=1.0,
        )

    def remove(self) -> None:
        sentry_sdk.get_global_scope().set_client(None)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        with sentry_sdk.isolation_scope(), sentry_sdk.start_transaction(name="a request"):
            yield
            sentry_sdk.capture_message("what the breadcrumbs lead to")

    def exported(self) -> tuple[list[str], str]:
        items = [item for envelope in self._envelopes for item in envelope.items]
        self._envelopes.clear()
        events = [item.payload.json or {} for item in items]
        spans = [span["data"]["url"] for event in events for span in event.get("spans", ())]
        crumbs = [
            crumb["data"]["url"]
            for event in events
            if event.get("type") != "transaction"
            for crumb in event.get("breadcrumbs", {}).get("values", ())
        ]
        return spans + crumbs, f"{events}"


def _into(envelopes: list[Envelope]) -> type[Transport]:
    class Kept(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            envelopes.append(envelope)

    return Kept


#: By a client's name, what makes its tools.
TOOLS: dict[str, dict[str, Callable[[], Tool]]] = {
    "httpx": {
        "opentelemetry": lambda: OpenTelemetry(HTTPXClientInstrumentor),
        "sentry": lambda: Sentry(HttpxIntegration),
    },
    "httpx2": {
        "opentelemetry": lambda: OpenTelemetry(HTTPX2ClientInstrumentor),
        "sentry": lambda: Sentry(Httpx2Integration),
    },
    "requests": {
        "opentelemetry": lambda: OpenTelemetry(RequestsInstrumentor),
        "sentry": lambda: Sentry(StdlibIntegration),
    },
    "urllib3": {
        "opentelemetry": lambda: OpenTelemetry(URLLib3Instrumentor),
        "sentry": lambda: Sentry(StdlibIntegration),
    },
    "aiohttp": {
        "opentelemetry": lambda: OpenTelemetry(AioHttpClientInstrumentor),
        "sentry": lambda: Sentry(AioHttpIntegration),
    },
}


@pytest.fixture(scope="module", autouse=True)
def both_conventions() -> Iterator[None]:
    """Have OpenTelemetry write a URL down by its old name and its new one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "http/dup")
        patch.setattr(_semconv._OpenTelemetrySemanticConventionStability, "_initialized", False)
        yield


@pytest.fixture(params=fetchers())
def fetcher(request: pytest.FixtureRequest, front: Front) -> Iterator[Fetcher]:
    client, is_explicit = request.param
    with as_found(client):
        yield Fetcher(client, is_explicit, front.presigner())


#: For what is said of hooks alone.
by_hooks = pytest.mark.parametrize("fetcher", fetchers(hooks_only=True), indirect=True)


@pytest.fixture(params=["opentelemetry", "sentry"])
def tool(request: pytest.FixtureRequest, fetcher: Fetcher) -> Iterator[Tool]:
    tool = TOOLS[fetcher.client.name][request.param]()
    yield tool
    tool.remove()


def test_every_client_has_its_tools() -> None:
    """C4: no client is left out of this file."""
    assert TOOLS.keys() == {client.name for client in CLIENTS}


ORDERS = [
    "ours theirs -ours -theirs",
    "ours theirs -theirs -ours",
    "theirs ours -theirs -ours",
    "theirs ours -ours -theirs",
]


@by_hooks
@pytest.mark.parametrize("order", ORDERS)
def test_both_work_in_whatever_order_they_come_and_go(
    fetcher: Fetcher, front: Front, tool: Tool, order: str
) -> None:
    """C4, S6: each works while it is installed and only then; they see the unsigned URL and add headers."""
    with as_found(fetcher.client) as before, contextlib.ExitStack() as left:
        here: dict[str, Callable[[], None]] = {}
        for step in order.split():
            if step == "ours":
                here[step] = left.enter_context(fetcher.hooked()).remove  # type: ignore[attr-defined]  # a hook
            elif step == "theirs":
                tool.install()
                here[step] = tool.remove
            else:
                here.pop(step[1:])()
            front.forget()
            with tool.at_work():
                answer = fetcher.fetch(front.cat)
            urls, told = tool.exported()
            (request,) = front.arrived
            assert answer.status == (200 if "ours" in here else 403), f"after {step}"
            assert set(urls) == ({front.cat} if "theirs" in here else set()), f"after {step}"
            assert len(urls) == 2 * ("theirs" in here), f"after {step}"
            assert [bool(request.header(name)) for name in tool.headers] == [("theirs" in here)] * 2
            assert SIGNATURE not in told
        assert isinstance(tool, Sentry) or changed(before) == []


def test_a_tool_sees_what_an_adapter_signs_by_its_unsigned_url(
    fetcher: Fetcher, front: Front, tool: Tool
) -> None:
    """C2, C4, S6: through the explicit adapter too, whichever part of the client the tool wraps."""
    tool.install()
    with fetcher.hooked(), tool.at_work():
        assert fetcher.fetch(front.cat).content == b"a cat"
    urls, told = tool.exported()
    (request,) = front.arrived
    assert set(urls) == {front.cat}
    assert SIGNATURE not in told
    assert None not in [request.header(name) for name in tool.headers]
    assert "X-Amz-SignedHeaders=host&" in request.query


@pytest.mark.parametrize("is_first", [True, False], ids=["theirs, ours", "ours, theirs"])
@pytest.mark.parametrize("tool", ["opentelemetry"], indirect=True)
@pytest.mark.parametrize("fetcher", [one for one in fetchers() if "httpx" in one.id], indirect=True)
def test_a_client_that_is_instrumented_by_itself_is_signed_for(
    fetcher: Fetcher, front: Front, tool: OpenTelemetry, is_first: bool
) -> None:
    """C1, C4: ``instrument_client`` wraps the method of one transport object, before our hook or after."""

    def only(client: Any) -> None:
        tool.instrumentor.instrument_client(client, tracer_provider=tool.provider)

    async def fetch_and_undo() -> list[int]:
        async with fetcher.open() as client:
            if is_first:
                only(client)
            with fetcher.hooked():
                if not is_first:
                    only(client)
                statuses = [(await fetcher.client.send(client, Asked(front.cat))).status]
                if not fetcher.is_explicit:  # of a transport that is both, it leaves the async side wrapped
                    tool.instrumentor.uninstrument_client(client)
                    statuses.append((await fetcher.client.send(client, Asked(front.cat))).status)
            return statuses

    with fetcher.scope():
        assert set(fetcher.client.run(fetch_and_undo())) == {200}
    urls, told = tool.exported()
    assert urls == [front.cat] * 2
    assert SIGNATURE not in told


@by_hooks
@pytest.mark.parametrize("is_first", [True, False], ids=["theirs, ours", "ours, theirs"])
def test_neither_is_told_the_signature_of_a_url_signed_here(
    fetcher: Fetcher, front: Front, tool: Tool, is_first: bool
) -> None:
    """S5, C4, L1: what the application signed itself, or redirects to, shows in no span and no breadcrumb."""
    ours = fetcher.presigner.url(front.cat)
    front.moved["/photo"] = ours
    if is_first:
        tool.install()
    with fetcher.hooked():
        if not is_first:
            tool.install()
        with tool.at_work():
            answers = fetcher.fetch_all([ours, f"{front.base}/photo"])
    urls, told = tool.exported()
    assert [answer.content for answer in answers] == [b"a cat"] * 2
    assert front.cat in urls
    assert SIGNATURE not in told
