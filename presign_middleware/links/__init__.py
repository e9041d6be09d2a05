"""
Links of a whole answer: URLs in the place of what it names, found in one batch.

::

    class Photo(BaseModel):
        thumbnail: Annotated[str, Link("media")]

    page = await alink(page)
"""

from collections.abc import Iterator
from typing import Any, TypeVar, overload

from ..errors import ConfigurationError
from ..linking import Linking
from ..presigner import Presigner
from ..scope import current
from .annotations import node_of
from .marks import Link
from .paths import Path, named
from .shapes import ANY, Batch, copied

__all__ = ["Link", "alink", "link"]

T = TypeVar("T")


@overload
def link(presigner: Presigner, data: T, /, *paths: Path) -> T: ...
@overload
def link(data: T, /, *paths: Path) -> T: ...
def link(*arguments: Any) -> Any:
    """
    Return a copy of *data* with presigned URLs in the place of its links.

    ::

        page = link(presigner, page)  # fields that are marked with Link
        data = link(presigner, data, "photos[*].thumbnail", "cover")  # places in dicts and lists
        data = link(presigner, data, {"photos[*].thumbnail": Link("media")})

    Without a *presigner*, that of the current scope is used. Without *paths*, links are the
    fields marked with `Link` of the Pydantic models, dataclasses and named tuples that *data* is
    or holds, in lists, tuples, sets and dicts too; with *paths*, the places that they name, and
    nothing else. What is not named is not touched. None is no link, and stays.

    *data* is not changed: what holds a link is copied, without being validated anew, and all
    else is the same object as before.

    However many links there are, and whatever their parameters, they are one batch: at most
    one round trip to each server of the shared cache. May block as `Presigner.urls` does.

    Raises:
        NotCovered: What is in the place of a link cannot be one; the message begins with the path.
        ConfigurationError: A mark or a path that cannot work, an origin that is not there,
            neither a presigner nor a scope.
        SigningError: As from `Presigner.url`.
    """
    linking, batch, top = _walked("link", arguments)
    batch.fill(linking.urls(batch.objects))
    return top[0]


@overload
async def alink(presigner: Presigner, data: T, /, *paths: Path) -> T: ...
@overload
async def alink(data: T, /, *paths: Path) -> T: ...
async def alink(*arguments: Any) -> Any:
    """Return what `link` returns, without ever blocking the event loop."""
    linking, batch, top = _walked("alink", arguments)
    batch.fill(await linking.aurls(batch.objects))
    return top[0]


def _walked(function: str, arguments: tuple[Any, ...]) -> tuple[Linking, Batch, list[Any]]:
    """Return whoever finds the URLs, the links of the data, and a list of one: its copy."""
    if arguments and isinstance(arguments[0], Presigner):
        presigner, *arguments = arguments  # type: ignore[assignment]  # a list will do
    else:
        scope = current()
        if scope is None:
            raise ConfigurationError(
                f"{function}() was called outside any request and has no presigner: call it inside "
                "`with presigner.scope():`, add PresignMiddleware to the application, "
                f"or write {function}(presigner, ...)"
            )
        presigner = scope.presigner
    if not arguments:
        raise TypeError(f"{function}() needs the data whose links are wanted")
    data, *paths = arguments
    if isinstance(data, Iterator):
        raise ConfigurationError(f"{function}() wants a list, got an iterator, which has no copy")
    linking: Linking = presigner.linking
    batch = Batch(linking.finder, node_of)
    return linking, batch, copied(named(tuple(paths)) if paths else ANY, data, batch)
