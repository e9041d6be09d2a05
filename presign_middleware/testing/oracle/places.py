"""
Where a request points: bucket and key out of Host and path, in every form of address S3 has.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from .answers import S3Error
from .requests import S3Request
from .world import Place, World

_LONGEST_KEY: Final = 1024  # bytes

_AWS_HOST: Final = re.compile(
    r"(?:(?P<label>.+)\.)?s3(?P<kind>-accesspoint|-accelerate)?(?:-fips)?(?:\.dualstack)?"
    r"(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?\.amazonaws\.com(?:\.cn)?"
)


def locate(request: S3Request, world: World) -> Place:
    """Read bucket and key from Host and path: path style, virtual hosts, and the hosts of AWS."""
    host = _without_port(request.host).lower()
    aws = _AWS_HOST.fullmatch(host)
    if aws:
        return _locate_on_aws(request.path, aws, world)
    if host in world.domains or host == "localhost" or _is_address(host):
        return _path_style(request.path)
    for domain in world.domains:
        if host.endswith(f".{domain}"):
            return Place(host.removesuffix(f".{domain}"), _decode_key(request.path[1:]), is_virtual_host=True)
    # Any other name is a bucket's own, pointed at S3 with a CNAME record.
    return Place(host, _decode_key(request.path[1:]), is_virtual_host=True)


def _locate_on_aws(path: str, aws: re.Match[str], world: World) -> Place:
    label, kind, region = aws["label"], aws["kind"], aws["region"]
    is_global = kind is None and region is None
    if label is None:
        return _path_style(path, region, is_global=is_global)
    bucket = world.access_points.get(label, label) if kind == "-accesspoint" else label
    return Place(bucket, _decode_key(path[1:]), True, region, is_global)


def _path_style(path: str, region: str | None = None, *, is_global: bool = False) -> Place:
    bucket, _, key = path[1:].partition("/")
    return Place(unquote(bucket), _decode_key(key), False, region, is_global)


def _decode_key(raw: str) -> str:
    key = unquote_to_bytes(raw.encode("latin-1"))
    if len(key) > _LONGEST_KEY:
        raise S3Error(400, "KeyTooLongError", "Your key is too long", {"MaxSizeAllowed": str(_LONGEST_KEY)})
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise S3Error(400, "InvalidURI", "Couldn't parse the specified URI.") from None


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
