"""An answer of 1,000 links, as an endpoint has it: a Pydantic model that holds keys."""

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Annotated, Any

from pydantic import BaseModel

from presign_middleware import Origin, Policy, Presigner
from presign_middleware.links import Link, alink, link

from .peers import Boto3
from .rounds import Contender, whole
from .workload import BUCKET, LIFETIME, MANY_KEYS, REGION, session

__all__ = ["LINKS", "Answers"]

LINKS = len(MANY_KEYS)


class _Photo(BaseModel):
    id: int
    title: str
    thumbnail: Annotated[str, Link("media")]


class _Page(BaseModel):
    photos: list[_Photo]


class Answers:
    """The contenders that put a URL in the place of every key of one answer, none of which is held."""

    BOTO3 = Boto3.NAME
    TARGETS = "urls() of its keys"

    def __init__(self, runner: asyncio.Runner, boto3: Boto3) -> None:
        self._runner = runner
        self._boto3 = boto3
        self._session = session()
        photos = [_Photo(id=n, title=f"A photo, {n}", thumbnail=key) for n, key in enumerate(MANY_KEYS)]
        self._page = _Page(photos=photos)
        self._targets = [f"s3://{BUCKET}/{photo.thumbnail}" for photo in photos]

    def links(self) -> tuple[Contender, ...]:
        """Link the answer; and find the URLs alone, which is what of it is not the walking."""

        async def awaited(presigner: Presigner) -> float:
            start = perf_counter()
            await alink(presigner, self._page)
            return (perf_counter() - start) / LINKS

        return (
            self._cold("link()", lambda presigner: _timed(lambda: link(presigner, self._page))),
            self._cold("await alink()", lambda presigner: self._runner.run(awaited(presigner))),
            self._cold(self.TARGETS, lambda presigner: _timed(lambda: presigner.urls(self._targets))),
            Contender(self.BOTO3, lambda: lambda: whole(self._with_boto3, self._page.photos)),
        )

    def _with_boto3(self, photos: Any) -> _Page:
        return _Page.model_construct(
            photos=[p.model_copy(update={"thumbnail": self._boto3.url(p.thumbnail)}) for p in photos]
        )

    def _cold(self, name: str, call: Callable[[Presigner], float]) -> Contender:
        def prepare() -> Callable[[], float]:
            origin = Origin("media", bucket=BUCKET, region=REGION, session=self._session)
            presigner = Presigner(origin, policy=Policy(lifetime=LIFETIME))
            presigner.url(f"s3://{BUCKET}/learn-the-plan")

            def run() -> float:
                took = call(presigner)
                if presigner.stats()["signed"] < LINKS:
                    raise AssertionError("not every link was signed")
                return took

            return run

        return Contender(name, prepare, is_ours=True)


def _timed(call: Callable[[], object]) -> float:
    """Return the seconds that *call* takes for one link."""
    start = perf_counter()
    call()
    return (perf_counter() - start) / LINKS
