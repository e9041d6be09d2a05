"""
botocore's ``generate_presigned_url``, hence boto3's and of all that ask boto3 for links, such as
django-storages. And aiobotocore's, which is async.

Every client has a class of its own, which has the method as an attribute. So the seam is
where these classes are made, and existing ones are found as subclasses.

What can go wrong:

* Handlers of a client's events do not hear of a call that is answered from here. One that
  rewrites the keys or the credentials of some calls and not of others is not noticed.
* A client whose method is not botocore's own, but a plain function that someone put in its place
  before, is left alone.
* Who calls ``botocore.signers.generate_presigned_url`` itself, or a `RequestSigner`, is
  answered by botocore.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from ..answering import Answer, Call
from .catching import deciding
from .hooking import Hooks, innermost

__all__ = ["AiobotocoreHooks", "BotocoreHooks", "keeping"]

#: Whoever wants boto3's own choice of a signature version; put there by ``intercept(upgrade=False)``.
keeping: list[object] = []


class BotocoreHooks:
    """The hooks on botocore: every S3 client's, made before or after."""

    _base = "BaseClient"
    _creator = "ClientCreator"

    def __init__(self, library: ModuleType) -> None:  # its module "client"
        self._hooks = Hooks()
        self._native = import_module(f"{library.__package__}.signers").generate_presigned_url
        self._hooks.place(getattr(library, self._creator), "_create_client_class", self._creating)
        for kind in getattr(library, self._base).__subclasses__():
            self._meet(kind)

    def remove(self) -> None:
        """Leave the library and its clients as they were, or with hooks that do nothing."""
        self._hooks.remove()

    def _meet(self, kind: Any) -> None:
        # Someone else's own function may refuse what boto3 would sign: it is to hear of each call.
        name = "generate_presigned_url"
        if kind.__name__ == "S3" and name in vars(kind) and innermost(kind, name)[1] is self._native:
            self._hooks.place(kind, name, self._presigning)

    def _creating(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _create_client_class(*args: Any, **kwargs: Any) -> Any:
            kind = original(*args, **kwargs)
            self._meet(kind)
            return kind

        return _create_client_class

    def _presigning(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def generate_presigned_url(*args: Any, **kwargs: Any) -> Any:
            answer, theirs = self._answer(args, kwargs), None
            if answer is not None and not answer.is_proven:
                theirs = original(*args, **kwargs)
                answer = answer.proven(theirs)
            url = None if answer is None else answer.url()
            return url or theirs or original(*args, **kwargs)

        return generate_presigned_url

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer | None:
        if not self._hooks.active:
            return None
        try:
            call = Call(*args, **kwargs)
        except TypeError:  # botocore's to tell
            return None
        answers = (one.answering.decide(call, upgrade=not keeping) for one in deciding())
        return next((answer for answer in answers if answer is not None), None)


class AiobotocoreHooks(BotocoreHooks):
    """The hooks on aiobotocore, which has classes of its own."""

    _base = "AioBaseClient"
    _creator = "AioClientCreator"

    def _creating(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def _create_client_class(*args: Any, **kwargs: Any) -> Any:
            kind = await original(*args, **kwargs)
            self._meet(kind)
            return kind

        return _create_client_class

    def _presigning(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def generate_presigned_url(*args: Any, **kwargs: Any) -> Any:
            answer, theirs = self._answer(args, kwargs), None
            if answer is not None and not answer.is_proven:
                theirs = await original(*args, **kwargs)
                answer = answer.proven(theirs)
            url = None if answer is None else await answer.aurl()
            return url or theirs or await original(*args, **kwargs)

        return generate_presigned_url
