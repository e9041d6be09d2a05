"""
Private files of S3 behind an application: FastAPI, httpx and presign-middleware.

    pip install fastapi httpx presign-middleware "uvicorn[standard]"
    export PRESIGN_ORIGINS="files=s3://acme-files/reports/?region=eu-west-1"
    uvicorn fastapi_files:app

Credentials are boto3's. What there is, one name a line, is in the object `index.txt`. Every fetch
below is of a plain `s3://` URL: `PresignMiddleware` signs it, wherever in the request it is made.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from typing import Annotated, Any
from urllib.parse import quote

import httpx
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse, StreamingResponse

from presign_middleware import Presigner
from presign_middleware.asgi import PresignMiddleware

presigner = Presigner.from_env()
origin = presigner.origins["files"]
FILES = f"s3://{origin.bucket}/{origin.prefix}"


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    async with httpx.AsyncClient() as http:
        yield {"http": http}


app = FastAPI(lifespan=lifespan)
app.add_middleware(PresignMiddleware, presigner=presigner)


def client(connection: HTTPConnection) -> httpx.AsyncClient:
    found: httpx.AsyncClient = connection.state.http
    return found


Http = Annotated[httpx.AsyncClient, Depends(client)]


async def index(http: Http) -> list[str]:
    """A dependency that fetches."""
    found = await http.get(f"{FILES}index.txt")
    return found.raise_for_status().text.splitlines()


Names = Annotated[list[str], Depends(index)]


def known(name: str, names: Names) -> str:
    if name not in names:
        raise HTTPException(404)
    return name


Name = Annotated[str, Depends(known)]


@app.get("/")
async def page(names: Names) -> HTMLResponse:
    """A page of links to S3 itself: any number of URLs, one round trip."""
    links = await presigner.aurls(f"{FILES}{name}" for name in names)
    rows = [
        f'<li><a href="{escape(link)}">{escape(name)}</a>' for link, name in zip(links, names, strict=True)
    ]
    return HTMLResponse(f"<!doctype html><title>Files</title><ul>{''.join(rows)}</ul>")


@app.get("/type/{name}")
def type_of(name: Name) -> str:
    """A sync endpoint, which FastAPI runs in a thread."""
    return httpx.head(f"{FILES}{quote(name)}").raise_for_status().headers["Content-Type"]


@app.get("/file/{name}")
async def file(name: Name, http: Http, tasks: BackgroundTasks) -> StreamingResponse:
    """A file passed through, and a task that runs when the client has it."""

    async def parts() -> AsyncIterator[bytes]:
        async with http.stream("GET", f"{FILES}{quote(name)}") as found:
            async for part in found.raise_for_status().aiter_bytes():
                yield part

    async def check() -> None:
        again = await http.get(f"{FILES}{quote(name)}")
        downloads[name] = len(again.raise_for_status().content)

    tasks.add_task(check)
    return StreamingResponse(parts())


downloads: dict[str, int] = {}  # bytes of what was downloaded


@app.websocket("/preview")
async def preview(websocket: WebSocket, names: Names, http: Http) -> None:
    """The first bytes of each file that is named; the scope lasts as long as the websocket."""
    await websocket.accept()
    async for name in websocket.iter_text():
        if name in names:
            found = await http.get(f"{FILES}{quote(name)}", headers={"Range": "bytes=0-99"})
            await websocket.send_bytes(found.raise_for_status().content)
