"""
The decision: the rules in their order, then the operation, without a clock and without a change to anything.
"""

from email.utils import formatdate
from urllib.parse import unquote

from .answers import S3Error, error, no_such_bucket
from .operations import operate
from .places import locate
from .requests import S3Request, S3Response
from .rules import (
    access_key_is_known,
    amz_headers_are_signed,
    endpoint_is_in_the_buckets_region,
    global_host_serves_the_region,
    only_one_mechanism,
    read_claim,
    refuse_anonymous,
    scope_is_the_buckets_region,
    signature_matches,
    token_is_good,
    uri_is_well_formed,
    url_is_alive,
)
from .sigv4 import canonical_pairs
from .world import Change, World


def decide(request: S3Request, world: World, now: float, request_id: str) -> tuple[S3Response, Change | None]:
    """Decide what S3 answers at *now*, and what becomes of the bucket; read no clock, change nothing."""
    change: Change | None = None
    try:
        response, change = _perform(request, world, now)
    except S3Error as refused:
        response = error(refused, request.path, request_id)
    headers = (
        *response.headers,
        ("Date", formatdate(now, usegmt=True)),
        ("Server", "AmazonS3"),
        ("x-amz-request-id", request_id),
    )
    is_bodiless = request.method == "HEAD" or response.status in (204, 304)
    return S3Response(response.status, headers, b"" if is_bodiless else response.body, response.code), change


def _perform(request: S3Request, world: World, now: float) -> tuple[S3Response, Change | None]:
    uri_is_well_formed(request)
    place = locate(request, world)
    bucket = world.buckets.get(place.bucket)
    endpoint_is_in_the_buckets_region(place, bucket)
    pairs = canonical_pairs(request.query)
    query = {unquote(name): unquote(value) for name, value in pairs}
    if only_one_mechanism(request, query) is None:
        refuse_anonymous(bucket)
    claim = read_claim(query, pairs)
    scope_is_the_buckets_region(claim, bucket)
    global_host_serves_the_region(place, bucket)
    key_pair = access_key_is_known(claim, world)
    url_is_alive(claim, now)
    token_is_good(claim, key_pair, now)
    amz_headers_are_signed(request, claim)
    signature_matches(request, pairs, claim, key_pair)
    if bucket is None:
        raise no_such_bucket()
    return operate(request, query, bucket, place.key, now)
