"""
Private files of S3 behind an application: Flask, httpx and presign-middleware.

    pip install flask gunicorn httpx presign-middleware
    export PRESIGN_ORIGINS="files=s3://acme-files/reports/?region=eu-west-1"
    gunicorn --threads 4 flask_files:app

Credentials are boto3's. `/file/<name>` passes a file through: its fetch is of a plain `s3://` URL, and
`PresignMiddleware` signs it. `/link/<name>` sends the browser to S3 itself.
"""

from urllib.parse import quote

import httpx
from flask import Flask, Response, abort, redirect
from werkzeug.wrappers import Response as AnyResponse

from presign_middleware import NotCovered, Presigner
from presign_middleware.wsgi import PresignMiddleware

presigner = Presigner.from_env()
origin = presigner.origins["files"]
FILES = f"s3://{origin.bucket}/{origin.prefix}"

http = httpx.Client()
app = Flask(__name__)
app.wsgi_app = PresignMiddleware(app.wsgi_app, presigner=presigner)  # type: ignore[method-assign]  # Flask's own way


@app.get("/file/<path:name>")
def file(name: str) -> Response:
    try:
        found = http.send(http.build_request("GET", FILES + quote(name)), stream=True)
    except httpx.UnsupportedProtocol:  # not covered, such as a name with dots that lead elsewhere
        abort(404)
    if found.is_error:
        found.close()
        abort(404)
    headers = {
        "Content-Type": found.headers["Content-Type"],
        "Content-Length": found.headers["Content-Length"],
    }
    response = Response(found.iter_raw(), headers=headers)
    response.call_on_close(found.close)
    return response


@app.get("/link/<path:name>")
def link(name: str) -> AnyResponse:
    try:
        return redirect(presigner.url(FILES + name))
    except NotCovered:
        abort(404)
