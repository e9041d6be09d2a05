"""
Links of one answer: objects with different parameters and lifetimes, found in one batch.
"""

from collections.abc import Callable, Sequence

from .healing import Healing
from .objects import S3Object
from .rollout import Arms
from .scope import Scope, given
from .targets import Targets

__all__ = ["Linking"]


class Linking:
    """Makes objects of what an answer holds, and finds the URLs of all of them at once."""

    def __init__(
        self, targets: Targets, healing: Healing, arms: Arms, scope: Callable[[], Scope | None]
    ) -> None:
        self.finder = targets.finder
        self._healing = healing
        self._arms = arms
        self._scope = scope

    def urls(self, objects: Sequence[S3Object]) -> list[str]:
        """Return the URL of each of *objects*, in order. May block; raises the first SigningError."""
        objects = self._healing.where_all(objects)
        scope = self._scope()
        found = self._arms.find_all(objects, [None] * len(objects), scope)
        return [entry.url for entry in given(scope, found)]

    async def aurls(self, objects: Sequence[S3Object]) -> list[str]:
        """Return what `urls` returns, without ever blocking the event loop."""
        objects = self._healing.where_all(objects)
        scope = self._scope()
        found = await self._arms.afind_all(objects, [None] * len(objects), scope)
        return [entry.url for entry in given(scope, found)]
