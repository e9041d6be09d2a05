"""
Who else signs, each used as its own documentation says, and two floors.

None of the signers keeps anything: each signs whenever it is asked. A floor is what nobody
can go below: a look-up in a dict with its end compared, and the two hashes that every
signature takes.
"""

import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from botocore.config import Config

from .installed import found
from .rounds import Contender, each, whole
from .workload import ACCESS_KEY, BUCKET, KEYS, LIFETIME, PASSES, REGION, SECRET_KEY, TARGETS, session

__all__ = ["Aiobotocore", "Boto3", "Dict", "Hashes", "Signers", "client"]

_ENDPOINT = f"s3.{REGION}.amazonaws.com"
_LIFETIME = timedelta(seconds=LIFETIME)


def client() -> Any:
    """Return boto3's client, which makes SigV4 URLs of the bucket's regional virtual host."""
    config = Config(signature_version="s3v4", s3={"addressing_style": "virtual"})
    return session().client("s3", config=config)


class Boto3:
    """``generate_presigned_url``."""

    NAME = "boto3"

    def __init__(self) -> None:
        self._generate = client().generate_presigned_url

    def url(self, key: str) -> str:
        """Return a URL of *key*."""
        params = {"Bucket": BUCKET, "Key": key}
        return cast(str, self._generate("get_object", Params=params, ExpiresIn=LIFETIME))

    def signs(self, keys: Sequence[str] = KEYS) -> Contender:
        """Sign every one of *keys*; boto3 has no call for many."""
        return Contender(self.NAME, lambda: lambda: each(self.url, keys))


def _obstore() -> Any:
    """obstore.sign, in Rust."""
    obstore, store = found("obstore"), found("obstore.store")
    if not obstore:
        return None
    bucket = store.S3Store(
        BUCKET,
        region=REGION,
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        virtual_hosted_style_request=True,
    )
    return lambda paths: obstore.sign(bucket, "GET", paths, _LIFETIME)


def _fast_s3_url() -> Any:
    """fast-s3-url, which takes lists."""
    module = found("fast_s3_url")
    if not module:
        return None
    signer = module.FastS3UrlSigner.from_boto3_client(client(), BUCKET)
    return partial(signer.generate_presigned_get_object_urls, expires_in=LIFETIME)


def _fast_s3_url_one() -> Any:
    sign = _fast_s3_url()
    return sign and (lambda key: sign([key])[0])


def _libpresign() -> Any:
    """libpresign.get, in C++. It takes the keys with each call, and makes URLs of the global host."""
    module = found("libpresign")
    return module and (
        lambda key: module.get(
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            region=REGION,
            bucket=BUCKET,
            key=key,
            expires=LIFETIME,
        )
    )


def _minio() -> Any:
    module = found("minio")
    if not module:
        return None
    store = module.Minio(_ENDPOINT, access_key=ACCESS_KEY, secret_key=SECRET_KEY, region=REGION)
    return lambda key: store.presigned_get_object(BUCKET, key, expires=_LIFETIME)


def _signurlarity() -> Any:
    """signurlarity's client, which makes path-style URLs."""
    module = found("signurlarity")
    if not module:
        return None
    generate = module.Client(
        endpoint_url=f"https://{_ENDPOINT}", aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY
    ).generate_presigned_url
    return lambda key: generate("get_object", Params={"Bucket": BUCKET, "Key": key}, ExpiresIn=LIFETIME)


def _django_storages() -> Any:
    """django-storages' ``S3Storage.url``, which asks boto3."""
    conf, module = found("django.conf"), found("storages.backends.s3")
    if not (conf and module):
        return None
    if not conf.settings.configured:
        conf.settings.configure()
    return module.S3Storage(
        access_key=ACCESS_KEY,
        secret_key=SECRET_KEY,
        bucket_name=BUCKET,
        region_name=REGION,
        addressing_style="virtual",
        signature_version="s3v4",
        querystring_expire=LIFETIME,
    ).url


class Signers:
    """Everybody but boto3 that runs beside it."""

    OBSTORE, LIBPRESIGN, FAST = "obstore", "libpresign", "fast-s3-url"
    OBSTORE_LIST, FAST_LIST = "obstore, one list", "fast-s3-url, one list"

    def __init__(self) -> None:
        self._one = {
            self.OBSTORE: _obstore(),
            self.FAST: _fast_s3_url_one(),
            self.LIBPRESIGN: _libpresign(),
            "minio": _minio(),
            "signurlarity": _signurlarity(),
            "S3Storage.url": _django_storages(),
        }
        self._many = {self.OBSTORE_LIST: _obstore(), self.FAST_LIST: _fast_s3_url()}

    def urls(self, key: str) -> dict[str, str]:
        """Return the URL of *key* that each one makes that is installed."""
        return {name: sign(key) for name, sign in self._one.items() if sign}

    def signs_each(self) -> tuple[Contender, ...]:
        """Sign every key with a call of its own."""
        return tuple(_contender(name, sign, each, KEYS) for name, sign in self._one.items())

    def signs_all(self) -> tuple[Contender, ...]:
        """Sign all keys with one call, where there is such a call."""
        return self.signs_these([KEYS])

    def signs_these(self, pages: Sequence[Sequence[str]]) -> tuple[Contender, ...]:
        """Sign each of *pages* with one call, where there is such a call."""
        lists = [list(page) for page in pages]  # obstore takes no tuple

        def run(sign: Any, pages: Sequence[list[str]]) -> float:
            return sum([whole(sign, page) * len(page) for page in pages]) / sum(map(len, pages))

        return tuple(_contender(name, sign, run, lists) for name, sign in self._many.items())


def _contender(name: str, sign: Any, run: Callable[..., float], items: Any) -> Contender:
    return Contender(name, (lambda: lambda: run(sign, items)) if sign else None)


class Aiobotocore:
    """
    aiobotocore, in a process and an environment of its own, since it wants an older botocore than boto3 does.

    ``make bench`` makes one beside its own; ``AIOBOTOCORE_PYTHON`` names another.
    """

    NAME = "aiobotocore"

    def __init__(self, ending: ExitStack) -> None:
        self.version: str | None = None
        usual = Path(sys.prefix, "aiobotocore", "bin", "python")
        python = os.environ.get("AIOBOTOCORE_PYTHON", str(usual))
        try:
            self._child = subprocess.Popen(
                [python, str(Path(__file__).with_name("aiobotocore_child.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        except OSError:
            return
        ending.enter_context(self._child)  # waits for it
        ending.callback(self._child.kill)
        told = [BUCKET, REGION, ACCESS_KEY, SECRET_KEY, LIFETIME, KEYS]
        self.version = self._ask(json.dumps(told)).strip() or None

    def signs(self) -> Contender:
        """Sign every key, one after another."""
        return Contender(self.NAME, (lambda: lambda: float(self._ask("sign"))) if self.version else None)

    def _ask(self, line: str) -> str:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            print(line, file=self._child.stdin, flush=True)
        except BrokenPipeError:  # the interpreter is there, aiobotocore is not
            return ""
        return self._child.stdout.readline()


class Dict:
    """A dict of URLs and their ends. Nothing bounds it, nothing renews it."""

    NAME = "dict, end compared"

    def __init__(self, url: str, targets: Sequence[str] = TARGETS) -> None:
        self._targets = targets
        self._held = {target: (f"{url}{n}", time.time() + LIFETIME) for n, target in enumerate(targets)}

    def finds(self) -> Contender:
        """Look every target up, written out in the loop."""
        return Contender(self.NAME, lambda: self._run, is_floor=True)

    def finds_by_function(self) -> Contender:
        """Look every target up by a function, as a program would have it."""
        return Contender(
            "dict, in a function", lambda: lambda: each(self._look_up, self._targets, PASSES), is_floor=True
        )

    def _run(self) -> float:
        get, now = self._held.get, time.time
        start = perf_counter()
        for _ in range(PASSES):
            for target in self._targets:
                found = get(target)
                if found is not None and now() < found[1]:
                    _url = found[0]
        return (perf_counter() - start) / (PASSES * len(self._targets))

    def _look_up(self, target: str) -> str | None:
        found = self._held.get(target)
        if found is not None and time.time() < found[1]:
            return found[0]
        return None


class Hashes:
    """SHA-256 of a canonical request and HMAC of a string to sign, of a real URL's length. No URL is made."""

    NAME = "two bare hashes"

    def __init__(self, sign: Callable[[str], str]) -> None:
        self._texts = [_signed_texts(sign(key)) for key in KEYS]

    def hashes(self) -> Contender:
        """Hash what every key's signature takes."""
        return Contender(self.NAME, lambda: lambda: _hash(self._texts), is_floor=True)


def _hash(texts: Sequence[tuple[bytes, bytes]]) -> float:
    sha256, digest, key = hashlib.sha256, hmac.digest, bytes(32)
    start = perf_counter()
    for request, text in texts:
        sha256(request).hexdigest()
        digest(key, text, "sha256")
    return (perf_counter() - start) / len(texts)


def _signed_texts(url: str) -> tuple[bytes, bytes]:
    """Return the canonical request and the string to sign of *url*."""
    parts = urlsplit(url)
    query, _, _ = parts.query.partition("&X-Amz-Signature=")
    request = f"GET\n{parts.path}\n{query}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD".encode()
    names = parse_qs(parts.query)
    _, _, scope = names["X-Amz-Credential"][0].partition("/")
    digest = hashlib.sha256(request).hexdigest()
    return request, f"AWS4-HMAC-SHA256\n{names['X-Amz-Date'][0]}\n{scope}\n{digest}".encode()
