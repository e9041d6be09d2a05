"""Views that fetch plain `s3://` URLs: the middleware signs them."""

from urllib.parse import quote

import httpx
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse

from presign_middleware import NotCovered, Presigner

presigner = Presigner.from_env()  # one per process: wsgi.py and asgi.py have the same
origin = presigner.origins["files"]
FILES = f"s3://{origin.bucket}/{origin.prefix}"

http = httpx.Client()


def target(name: str) -> str:
    if name in {".", ".."}:  # it would lead elsewhere
        raise Http404
    return FILES + quote(name)


def links(request: HttpRequest, names: str) -> JsonResponse:
    """Links to S3 itself, for names parted by commas."""
    try:
        found = presigner.urls(f"{FILES}{name}" for name in names.split(","))
    except NotCovered:  # such as a name of dots
        raise Http404 from None
    return JsonResponse(found, safe=False)


def file(request: HttpRequest, name: str) -> StreamingHttpResponse:
    """A file passed through."""
    found = http.send(http.build_request("GET", target(name)), stream=True)
    if found.is_error:
        found.close()
        raise Http404
    return StreamingHttpResponse(found.iter_bytes(), content_type=found.headers["Content-Type"])


async def content_type(request: HttpRequest, name: str) -> HttpResponse:
    """An async view."""
    async with httpx.AsyncClient() as client:
        found = await client.head(target(name))
    return HttpResponse(found.headers["Content-Type"], status=found.status_code)
