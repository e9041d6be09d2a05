"""
A gallery of private pictures: Starlette, httpx and presign-middleware.

    pip install boto3 httpx starlette uvicorn presign-middleware
    BUCKET=acme-pictures PREFIX=thumbnails/ uvicorn --factory starlette_gallery:app

Region, credentials and endpoint are boto3's: AWS_DEFAULT_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, ...
With SHARED=memcached://10.0.0.1:11211 the hosts of a fleet, each with a session of its own, give
out one and the same URL of a picture.
The page asks S3 for its first pictures itself, by their plain URLs: `PresignMiddleware` catches
these fetches and signs them. The links for the browser come from `presigner.aurls`.
"""

import asyncio
import os
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from html import escape
from typing import Any
from urllib.parse import quote

import boto3
import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from presign_middleware import Origin, Presigner
from presign_middleware.asgi import PresignMiddleware

INLINE = 4  # pictures the page carries itself; the others the browser fetches from S3
PICTURES = (".avif", ".gif", ".jpeg", ".jpg", ".png", ".svg", ".webp")


def app() -> Starlette:
    """Make the application for the bucket that the environment names."""
    bucket, prefix, s3 = os.environ["BUCKET"], os.environ.get("PREFIX", ""), boto3.client("s3")
    found = s3.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=300).get("Contents", [])
    keys = [item["Key"] for item in found if item["Key"].lower().endswith(PICTURES)]
    origin = Origin("gallery", bucket=bucket, prefix=prefix, client=s3)
    return gallery(Presigner(origin, shared=os.environ.get("SHARED")), bucket, keys, s3)


def gallery(presigner: Presigner | None, bucket: str, keys: Sequence[str], s3_client: Any) -> Starlette:
    """Make the application. Without a presigner, boto3 signs every URL of every page."""
    plain = [f"{s3_client.meta.endpoint_url}/{bucket}/{quote(key)}" for key in keys]

    def signed_by_boto3(key: str) -> Any:
        return s3_client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})

    async def page(request: Request) -> HTMLResponse:
        if presigner is not None:
            fetched, links = plain[:INLINE], await presigner.aurls(plain)
        else:  # what applications do today
            fetched, links = [*map(signed_by_boto3, keys[:INLINE])], [*map(signed_by_boto3, keys)]
        pictures = await asyncio.gather(*(request.state.http.get(url) for url in fetched))
        cards = [inline_card(*it) for it in zip(keys, links, pictures, strict=False)]
        cards += [card(link, link, key) for key, link in zip(keys[INLINE:], links[INLINE:], strict=True)]
        return HTMLResponse(PAGE.format(bucket=escape(bucket), count=len(keys), cards="\n".join(cards)))

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with httpx.AsyncClient() as http:
            yield {"http": http}

    middleware = [Middleware(PresignMiddleware, presigner=presigner)] if presigner is not None else []
    return Starlette(routes=[Route("/", page)], middleware=middleware, lifespan=lifespan)


def inline_card(key: str, link: str, picture: httpx.Response) -> str:
    """Return a card that holds *picture* itself, with its caption and its size."""
    picture.raise_for_status()
    image = f"data:{picture.headers['content-type']};base64,{b64encode(picture.content).decode()}"
    caption = picture.headers.get("x-amz-meta-caption", key)
    return card(link, image, caption, f"<span><b>{escape(caption)}</b>{len(picture.content):,} bytes</span>")


def card(link: str, image: str, alt: str, below: str = "") -> str:
    """Return a picture that links to the object; *below* is HTML."""
    shown = f'<img src="{escape(image)}" alt="{escape(alt)}" loading="lazy">'
    return f'<a href="{escape(link)}">{shown}{below}</a>'


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{bucket}</title>
<style>
:root {{ color-scheme: light dark; --paper: #f6f5f2; --ink: #23262b; --faint: #6b6f76; --card: #fff }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #15171b; --ink: #e9e8e4; --faint: #9a9da4; --card: #1f2228 }} }}
body {{ margin: 0 auto; max-width: 76rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif }}
h1 {{ margin: 0; line-height: 1.2 }}
p {{ margin: .3rem 0 1.5rem; color: var(--faint) }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: .75rem }}
a {{ overflow: hidden; border-radius: .6rem; background: var(--card); color: var(--faint);
  text-decoration: none; box-shadow: 0 1px 3px #0003 }}
a:has(span) {{ grid-column: span 2 }}
img {{ display: block; width: 100%; aspect-ratio: 4 / 3; object-fit: cover }}
span {{ display: block; padding: .5rem .75rem; font-size: .875rem }}
b {{ display: block; color: var(--ink) }}
</style>
<h1>{bucket}</h1>
<p>{count} private pictures. Without the signature in its link, S3 gives none of them away.</p>
<main>
{cards}
</main>
</html>
"""
