"""
What a response tells of the URLs that its request was given: for how long it may be kept, and
where they came from. The same for ASGI and WSGI.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Self

from .account import Account
from .freshness import REDIRECTS, limits
from .presigner import Presigner
from .scope import Scope

__all__ = ["Telling", "by_name"]

_SIGNATURE = "X-Amz-Signature="


class Telling:
    """What the responses of one middleware tell."""

    def __init__(self, presigner: Presigner, *, freshness: bool, diagnostics: bool) -> None:
        self._presigner = presigner
        self._freshness = freshness
        self._diagnostics = diagnostics

    @classmethod
    def of(cls, presigner: Presigner, *, freshness: bool, diagnostics: bool) -> Self | None:
        """Return what tells what is wanted; None: nothing is."""
        if not freshness and not diagnostics:
            return None
        return cls(presigner, freshness=freshness, diagnostics=diagnostics)

    def changes(
        self, account: Account, request: Scope, status: int, lines: Mapping[str, Sequence[str]]
    ) -> dict[str, list[str]]:
        """Return the headers of *request*'s response that have to change, and their lines; see `by_name`."""
        changes = self._limits(account, request, status, lines) if self._freshness else {}
        if self._diagnostics:
            changes |= self._diagnosis(account, request, lines)
        return changes

    def _limits(
        self, account: Account, request: Scope, status: int, lines: Mapping[str, Sequence[str]]
    ) -> dict[str, list[str]]:
        clock = self._presigner.clock
        now = clock.time()
        age = account.left(now, clock.monotonic())
        if age is None:
            return {}
        is_link = status in REDIRECTS and any(_has_signed(request, url) for url in lines.get("location", ()))
        return limits(status, lines, age=age, now=now, is_link=is_link)

    def _diagnosis(
        self, account: Account, request: Scope, lines: Mapping[str, Sequence[str]]
    ) -> dict[str, list[str]]:
        sources = {
            "scope": account.from_scope,
            "local": account.from_local,
            "flight": account.from_flight,
            "shared": account.from_shared,
            "signed": account.from_signer,
        }
        total = sum(sources.values())
        if not total:
            return {}
        numbers = {**sources, "refreshing": len(self._presigner.renewals.due(request))}
        timing = f'presign;dur={account.waited * 1000:.1f};desc="{total} URL{"s" * (total > 1)}"'
        return {
            "Server-Timing": [*lines.get("server-timing", ()), timing],
            "Presign-Cache": [", ".join([f"{name}={number}" for name, number in numbers.items() if number])],
        }


def by_name(headers: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the lines of *headers* by their names in lower case."""
    lines: dict[str, list[str]] = {}
    for name, value in headers:
        lines.setdefault(name.lower(), []).append(value)
    return lines


def _has_signed(request: Scope, url: str) -> bool:
    """Return whether *url* is one that *request* was given, be it at another host."""
    _, sign, signature = url.partition(_SIGNATURE)
    return bool(sign) and any(
        entry.url.endswith(sign + signature) for entry in list((request.met or {}).values())
    )
