"""
From what a caller has in hand to the object it names.

A target becomes a place (`origins`), and a place with a method, parameters and a
lifetime becomes an object. Everything here is pure.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from .errors import ConfigurationError, NotCovered
from .objects import Kind, Parameters, S3Object, quote_key, wire_parameters
from .origins import METHODS, Coverage, Origin, Place, Spot
from .policy import Policy
from .redaction import redact

__all__ = ["Targets"]

#: Parameters with which whoever wrote a URL says what a browser makes of its bytes.
_OVERRIDES = frozenset({"response-content-type", "response-content-disposition"})

#: Kinds that are kept: parameter values may be without end.
_MOST_KINDS = 1_000

#: Makes an object of its fields in half the time that calling the class takes: every miss needs one.
_object = tuple.__new__

#: How an object is asked for: form, method, the parameters of its target and further ones, lifetime.
_How = tuple[str, str, Parameters, Parameters, int | None]


class Targets:
    """The targets of some origins, which have their region and their policy by now."""

    def __init__(self, origins: Sequence[Origin]) -> None:
        self._origins = {origin.name: origin for origin in origins}
        self._former: list[Origin] = []
        self._coverage = Coverage(origins)
        self._standing = {o.name: (wire_parameters(o.params), o.policy or Policy()) for o in origins}
        self._kinds: dict[tuple[str, _How], Kind] = {}
        #: Returns the object that a target alone names, for GET. Raises NotCovered.
        self.named = self._near_finder("GET", (), None)

    def asked(
        self, target: str, method: str, params: Mapping[str, Any] | None, lifetime: int | None
    ) -> S3Object:
        """
        Return the object that a call of `Presigner.url` names.

        Raises:
            NotCovered: No origin holds *target*, or its origin does not sign *method*.
            ConfigurationError: *method*, *params* or *lifetime* cannot work.
        """
        return self.at(
            self._coverage.locate(target), method, wire_parameters(params) if params else (), lifetime
        )

    def finder(
        self, origin: str | None, method: str, params: Parameters, lifetime: int | None
    ) -> Callable[[str], S3Object]:
        """
        Return what makes objects of texts, all of one kind: keys or targets of *origin*; None: any target.

        It raises NotCovered.

        Raises:
            ConfigurationError: There is no such origin, or *lifetime* is out of its bounds.
            NotCovered: The origin does not sign *method*.
        """
        if origin is None:
            is_usual = method == "GET" and not params and lifetime is None
            return self.named if is_usual else self._near_finder(method, params, lifetime)
        named, is_alone, within = self._coverage.named(origin)
        # What all keys of one link have in common is looked into once.
        kind, _ = self.at((named, "", named.prefix, ()), method, params, lifetime)
        prefix = named.prefix

        def find(text: str) -> S3Object:
            # Most keys pass all of this, and a page has a thousand.
            if (
                is_alone
                and text
                and text[0] != "."  # a dot segment, maybe
                and (not prefix or text.startswith(prefix))
                and "/." not in text
                and "://" not in text
                and text.isascii()
            ):
                return _object(S3Object, (kind, text))
            place = within(text)
            _, form, key, asked = place
            if form or asked:
                return self.at(place, method, params, lifetime)
            return _object(S3Object, (kind, key))

        return find

    def _near_finder(
        self, method: str, params: Parameters, lifetime: int | None
    ) -> Callable[[str], S3Object]:
        """Return the finder for any target. Most of them begin alike: where one is, is the next."""
        coverage = self._coverage
        # All in one, since threads share it: whoever has read where a target is has read of what kind.
        # At first it is where no target is that is ASCII.
        near: tuple[str, str, Kind | None] = "\x80", "", None

        def find(text: str) -> S3Object:
            nonlocal near
            root, prefix, kind = near
            key = text.removeprefix(root)  # a call for what startswith() and a slice do
            if (
                key
                and key != text
                and "/." not in text
                and text.isascii()
                and (not prefix or key.startswith(prefix))
            ):
                return _object(S3Object, (kind, key))
            place = coverage.locate(text)
            obj = self.at(place, method, params, lifetime)
            origin, form, _, asked = place
            if not (form or asked) and coverage.is_alone(origin):
                near = f"s3://{origin.bucket}/", origin.prefix, obj.kind
            return obj

        return find

    def located(self, url: str) -> Place:
        """Return where *url*, as an HTTP client has encoded it, points. Raises NotCovered."""
        return Place(*self._coverage.locate(url, encoded=True))

    def caught(self, place: Place, method: str) -> S3Object:
        """Return the object that a caught fetch of *place* is for. Raises NotCovered."""
        if not place.origin.response_overrides:
            place = place._replace(params=tuple([p for p in place.params if p[0] not in _OVERRIDES]))
        return self.at(place, method)

    def linked(self, bucket: str, key: str, method: str, params: Parameters, lifetime: int) -> S3Object:
        """
        Return the object that a call of boto3's ``generate_presigned_url`` names.

        Raises:
            NotCovered: No origin holds it, or hooks are to leave it alone.
            ConfigurationError: *lifetime* is out of bounds.
        """
        place = Place(*self._coverage.locate(f"s3://{bucket}/{key}"))
        # A bucket's name with a slash in it would be read as another bucket and key.
        if not place.origin.catch or (place.origin.bucket, place.key) != (bucket, key):
            raise NotCovered(f"no origin links to {redact(f's3://{bucket}/{key}')}")
        share = self._standing[place.origin.name][1].boto_share
        obj = self.at(place, method, params)
        self.policy(obj).rotation(lifetime, share)  # raises where it is out of bounds
        return obj.but(lifetime=lifetime, share=share)

    def move(self, origin: Origin) -> None:
        """Take *origin*, the same one in another region, in the place of what it was."""
        self._former.append(self._origins[origin.name])
        self._origins[origin.name] = origin
        self._coverage = Coverage(list(self._origins.values()), self._former)
        self.named = self._near_finder("GET", (), None)

    def present(self, obj: S3Object) -> S3Object:
        """Return *obj* as it is asked for now: its endpoint may be of a region that its origin has left."""
        if not obj.form or not self._former:
            return obj
        with suppress(NotCovered):
            return obj.but(form=self.located(f"{obj.form}{quote_key(obj.key)}").form)
        return obj

    def fallback(self, obj: S3Object, name: str | None = None) -> S3Object | None:
        """
        Return where *obj* is looked for if its origin has it not; None: nowhere else.

        *name*: an origin; None: the one that its own says.
        """
        name = name or self._origins[obj.origin].fallback
        if name is None or obj.method not in ("GET", "HEAD"):
            return None
        lifetime = None if obj.lifetime == self.policy(obj).lifetime else obj.lifetime
        if not obj.key.startswith(self._origins[name].prefix):
            return None
        with suppress(NotCovered, ConfigurationError):  # it does not sign the method, or not for so long
            place = Place(self._origins[name], "", obj.key, obj.params)
            found = self.at(place, obj.method, lifetime=lifetime)
            self.policy(found).rotation(found.lifetime, obj.share)
            return found.but(share=obj.share)
        return None

    def sample(self, origin: Origin) -> S3Object:
        """Return an object as most of *origin* will be."""
        return self.at(Place(origin, "", f"{origin.prefix}x", ()), origin.methods[0])

    def policy(self, obj: S3Object) -> Policy:
        """Return the policy under which *obj* is signed."""
        return self._standing[obj.origin][1]

    def at(self, place: Spot, method: str, params: Parameters = (), lifetime: int | None = None) -> S3Object:
        """Return the object at *place*; *params* outrank the target's own, and those the origin's."""
        origin, form, key, asked = place
        how = form, method, asked, params, lifetime
        if lifetime is not None:
            self._standing[origin.name][1].rotation(lifetime)  # raises where it is out of bounds
        kind = self._kinds.get((origin.name, how))
        return _object(S3Object, (kind if kind is not None else self._kind(origin, how), key))

    def _kind(self, origin: Origin, how: _How) -> Kind:
        form, method, asked, params, lifetime = how
        if method not in origin.methods:
            _refuse_method(origin, method)
        standing, policy = self._standing[origin.name]
        if standing or (asked and params):
            asked = tuple({**dict(standing), **dict(asked), **dict(params)}.items())
        seconds = policy.lifetime if lifetime is None else lifetime
        kind = Kind(origin.name, origin.bucket, form, method, asked or params, seconds)
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[origin.name, how] = kind
        return kind


def _refuse_method(origin: Origin, method: str) -> NoReturn:
    if method not in METHODS:
        raise ConfigurationError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    raise NotCovered(
        f"origin {origin.name!r} signs {', '.join(origin.methods)}, not {method}: "
        f'Origin({origin.name!r}, ..., methods=("GET", "HEAD", {method!r})) would'
    )
