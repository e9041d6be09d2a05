"""
A strict S3, which does with a presigned URL what AWS does with it.

    oracle = Oracle(clock=clock)
    oracle.add_key("AKIDEXAMPLE", "a secret")
    oracle.create_bucket("media", region="eu-west-1")
    oracle.put("media", "cat.jpg", b"...")
    httpx.AsyncClient(transport=httpx.ASGITransport(app=oracle.asgi))   # or oracle.wsgi, or oracle.serve()

The oracle is an independent witness: it verifies SigV4 from the specification with
``hashlib`` and ``hmac``, and shares no code with the signers it judges.

The rules of the machine, in the order in which they are asked; the first that
refuses answers. What AWS documents no order for is settled here, once.

1. the URI is well formed                             400 InvalidURI
2. the endpoint is in the bucket's region             301 PermanentRedirect
3. one auth mechanism, and it is SigV4 in the query   400 InvalidArgument, InvalidRequest
4. no mechanism at all                                403 AccessDenied
5. the six query parameters are there and well formed 400 AuthorizationQueryParametersError
6. the region of the scope is the bucket's            400 AuthorizationQueryParametersError
7. the access key is known                            403 InvalidAccessKeyId
8. now is within the life of the URL                  403 AccessDenied
9. the session token is this key's, and alive         400 InvalidToken, ExpiredToken
10. host and every x-amz-* header are signed          403 AccessDenied
11. the signature matches                             403 SignatureDoesNotMatch
12. the bucket and the object exist                   404, or 403 without the right to list

Where AWS may be lenient the oracle is not, so that what passes here passes there:
the path must be on the wire exactly as it was signed (AWS may forgive another
spelling of the same bytes), and a literal ``+`` in the query never matches.

Instants are Unix seconds (UTC), durations float seconds.
"""

from .application import Oracle, WallClock
from .requests import Headers, Message, Receive, S3Request, S3Response, Scope, Seen, Send
from .world import KeyPair

__all__ = [
    "Headers",
    "KeyPair",
    "Message",
    "Oracle",
    "Receive",
    "S3Request",
    "S3Response",
    "Scope",
    "Seen",
    "Send",
    "WallClock",
]
