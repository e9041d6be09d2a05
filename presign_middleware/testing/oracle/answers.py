"""
The refusals: the error which ends a decision, the ones that several rooms raise, and the XML of them all.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NoReturn
from xml.sax.saxutils import escape

from .requests import Headers, S3Response
from .world import Bucket, Place


class S3Error(Exception):
    """Ends the decision: one of the rules does not hold."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        elements: Mapping[str, str] | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.elements = elements or {}
        self.headers = headers


def no_such_bucket() -> S3Error:
    return S3Error(404, "NoSuchBucket", "The specified bucket does not exist")


def malformed(message: str) -> S3Error:
    return S3Error(400, "AuthorizationQueryParametersError", message)


def redirect(place: Place, bucket: Bucket) -> NoReturn:
    # As AWS: no Location header, so that no client follows with a signature for another host.
    endpoint = f"s3.{bucket.region}.amazonaws.com"
    raise S3Error(
        301,
        "PermanentRedirect",
        "The bucket you are attempting to access must be addressed using the specified endpoint. "
        "Please send all future requests to this endpoint.",
        {
            "Endpoint": f"{bucket.name}.{endpoint}" if place.is_virtual_host else endpoint,
            "Bucket": bucket.name,
        },
        (("x-amz-bucket-region", bucket.region),),
    )


def error(refused: S3Error, path: str, request_id: str) -> S3Response:
    elements = {
        "Code": refused.code,
        "Message": refused.message,
        **refused.elements,
        "Resource": path,
        "RequestId": request_id,
    }
    # XML has no way to write most control characters, not even escaped.
    inner = "".join(f"<{name}>{escape(_xml_text(value))}</{name}>" for name, value in elements.items())
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error>{inner}</Error>'.encode()
    headers = (*refused.headers, ("Content-Type", "application/xml"), ("Content-Length", str(len(body))))
    return S3Response(refused.status, headers, body, refused.code)


def _xml_text(value: str) -> str:
    return re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", value)


def iso(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
