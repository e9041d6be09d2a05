"""
Keeping signatures out of texts that people and machines read.

A presigned URL is a bearer credential: who reads it can fetch the object.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from threading import local

__all__ = ["RedactSignatures", "hushed", "redact"]

#: A secret parameter and its value, in a URL or in one that was quoted into another, once or twice.
_SECRETS = (
    r"(?i)((?:(?<![A-Za-z-])|(?<=%3F)|(?<=%26)|(?<=%253F)|(?<=%2526))"
    r"(?:X-Amz-(?:Signature|Security-Token|Credential)|Signature|AWSAccessKeyId)(?:=|%3D|%253D))"
    r"""[^&\s"'<>)\]]+?(?=&|%26|%2526|[\s"'<>)\]]|$)"""
)


class RedactSignatures(logging.Filter):
    """
    A logging filter that takes signatures and session tokens out of any record::

        handler.addFilter(presign_middleware.RedactSignatures())

    This library logs none, nor do clients for the URLs its hooks sign. The filter is
    for everything else, such as an application that logs the links it hands out.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite *record* if its text holds a signature; always keep it."""
        try:
            text = record.getMessage()
        except Exception:  # logging reports what does not fit, with all its arguments
            text = _unfit(record)
        clean = re.sub(_SECRETS, r"\1[redacted]", text)
        if clean != text:
            record.msg, record.args = clean, ()
        said = record.exc_text
        if said is None and record.exc_info:
            said = logging.Formatter().formatException(record.exc_info)
        clean = re.sub(_SECRETS, r"\1[redacted]", said or "")
        if clean != (said or ""):
            # The exception itself would go to whoever formats it anew.
            record.exc_text, record.exc_info = clean, None
        return True


def _unfit(record: logging.LogRecord) -> str:
    try:
        return f"{record.msg} {record.args!r}"
    except Exception:  # what cannot be written cannot leak
        return ""


class _Hush(logging.Filter):
    """Drops what botocore logs at DEBUG of requests, answers and signatures while this library calls it."""

    #: Loggers that tell secrets.
    names = ("botocore.auth", "botocore.endpoint", "botocore.parsers")

    def __init__(self) -> None:
        super().__init__()
        self.thread = local()

    def filter(self, record: logging.LogRecord) -> bool:
        return not getattr(self.thread, "is_hushed", False)


_hush = _Hush()


@contextmanager
def hushed() -> Iterator[None]:
    """Keep botocore's DEBUG records of what this thread does inside from telling secrets."""
    for name in _Hush.names:
        logging.getLogger(name).addFilter(_hush)  # adding it twice does nothing
    before = getattr(_hush.thread, "is_hushed", False)
    _hush.thread.is_hushed = True
    try:
        yield
    finally:
        _hush.thread.is_hushed = before


def redact(target: object) -> str:
    """Return *target* fit for a message: no query, no userinfo, at most 200 characters, printable."""
    text = re.sub(r"[?#].*", "", str(target), flags=re.DOTALL)
    text = re.sub(r"//.*@", "//", text)
    text = re.sub(_SECRETS, r"\1[redacted]", text)  # a query that was quoted
    return ascii(text[:200])[1:-1][:200]
