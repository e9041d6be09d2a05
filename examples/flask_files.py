"""
Private files of S3, handed out by an application that decides who may have them: Flask and httpx.

    pip install boto3 flask gunicorn httpx presign-middleware
    BUCKET=acme-reports PREFIX=2026/ gunicorn --threads 4 "flask_files:app()"

Region, credentials and endpoint are boto3's: AWS_DEFAULT_REGION, AWS_PROFILE, AWS_ENDPOINT_URL, ...
`/file/<name>` passes a file through: its fetch goes to the plain URL, and `PresignMiddleware` signs
it. `/link/<name>` sends the browser to S3 itself.
"""

import os
from urllib.parse import quote

import boto3
import httpx
from flask import Flask, Response, abort, redirect
from werkzeug.wrappers import Response as AnyResponse

from presign_middleware import NotCovered, Origin, Presigner
from presign_middleware.wsgi import PresignMiddleware


def app() -> Flask:
    """Make the application for the bucket that the environment names."""
    bucket, prefix, s3 = os.environ["BUCKET"], os.environ.get("PREFIX", ""), boto3.client("s3")
    origin = Origin("files", bucket=bucket, prefix=prefix, client=s3)
    presigner = Presigner(origin, shared=os.environ.get("SHARED"))
    return files(presigner, f"{s3.meta.endpoint_url}/{bucket}/{quote(prefix)}", httpx.Client())


def files(presigner: Presigner, base: str, http: httpx.Client) -> Flask:
    """Make the application for the objects whose URLs begin with *base*."""
    flask_app = Flask(__name__)

    @flask_app.get("/file/<path:name>")
    def file(name: str) -> Response:
        found = http.send(http.build_request("GET", base + quote(name)), stream=True)
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

    @flask_app.get("/link/<path:name>")
    def link(name: str) -> AnyResponse:
        try:
            return redirect(presigner.url(base + quote(name)))
        except NotCovered:  # such as a name with dots that lead elsewhere
            abort(404)

    middleware = PresignMiddleware(flask_app.wsgi_app, presigner=presigner)
    flask_app.wsgi_app = middleware  # type: ignore[method-assign]  # Flask's own way of adding one
    return flask_app
