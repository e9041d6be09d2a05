"""
`Link`: what marks a place in an answer as a link.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..objects import Parameters, wire_parameters
from ..origins import METHODS

__all__ = ["Link"]


@dataclass(frozen=True, slots=True)
class Link:
    """
    A mark of a field that holds an object, for ``Annotated``.

    ::

        class Photo(BaseModel):
            thumbnail: Annotated[str, Link("media")]

    With an *origin*, an origin's name, the field holds a key of it: the whole key, as it is in
    the bucket, nothing decoded. An ``s3://`` target or an unsigned https URL of that very origin
    will do as well. Without one it holds any target that `Presigner.url` takes. *method*,
    *params* and *lifetime* (whole seconds) are those of `Presigner.url`.

    Raises:
        ConfigurationError: A setting that cannot work; named in the message.
    """

    origin: str | None = None
    _: KW_ONLY
    method: str = "GET"
    params: Mapping[str, Any] | None = field(default=None, compare=False)  # boto3's names
    lifetime: int | None = None  # None: as the origin's policy says
    wire: Parameters = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.origin is not None and not isinstance(self.origin, str):
            raise ConfigurationError(
                f'Link() takes the name of an origin, Link("media"), got {type(self.origin).__name__}'
            )
        if self.method not in METHODS:
            raise ConfigurationError(f"method must be one of {', '.join(METHODS)}, got {self.method!r}")
        object.__setattr__(self, "wire", wire_parameters(self.params) if self.params else ())
