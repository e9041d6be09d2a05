"""
botocore's ``generate_presigned_url``, hence boto3's and of all that ask boto3 for links, such as
django-storages; and its writes. And aiobotocore's, which is async.

Every client has a class of its own, which has the method as an attribute. So the seam is
where these classes are made, and existing ones are found as subclasses.

The seam of writes is ``BaseClient._make_request``, below ``_make_api_call``, which other tools wrap and
tests replace. What comes back there has the URL that S3 answered at last, after handlers, endpoint
rules, redirects and retries, so that a write is told as it is of any HTTP client: by method and URL.
Further up there are only parameters, and where they lead would have to be guessed; a call
that a stub answers does not come so far. The hook is there only while a presigner wants to hear of writes.

What can go wrong:

* Handlers of a client's events do not hear of a call that is answered from here. One that
  rewrites the keys or the credentials of some calls and not of others is not noticed.
* A client whose method is not botocore's own, but a plain function that someone put in its place
  before, is left alone.
* Who calls ``botocore.signers.generate_presigned_url`` itself, or a `RequestSigner`, is
  answered by botocore.
* s3transfer writes in threads of its own, which know no scope: its tasks are hooked too, and take along
  where they were made. Its CRT manager, for which ``awscrt`` is installed, does not send through botocore.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from types import ModuleType
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from ..answering import Answer, Call
from ..scope import Setting
from ..writing import Write, when_wanted
from .catching import deciding, unheard, written
from .hooking import Hooks, innermost

__all__ = ["AiobotocoreHooks", "BotocoreHooks", "keeping"]

#: Whoever wants boto3's own choice of a signature version; put there by ``intercept(upgrade=False)``.
keeping: list[object] = []

#: Operations that write.
_WRITES = {"PutObject", "CopyObject", "CompleteMultipartUpload", "DeleteObject", "DeleteObjects"}

#: Attribute of a task of s3transfer's: what held where it was made.
_SETTING = "_presign_setting"


class BotocoreHooks:
    """The hooks on botocore: every S3 client's, made before or after."""

    _base = "BaseClient"
    _creator = "ClientCreator"

    def __init__(self, library: ModuleType) -> None:  # its module "client"
        self._library = library
        self._hooks = Hooks()
        self._native = import_module(f"{library.__package__}.signers").generate_presigned_url
        self._hooks.place(getattr(library, self._creator), "_create_client_class", self._creating)
        for kind in getattr(library, self._base).__subclasses__():
            self._meet(kind)
        when_wanted(self)

    def watch(self) -> None:
        """Hook what writes go through, too."""
        self._hooks.place(getattr(self._library, self._base), "_make_request", self._requesting)
        task = import_module("s3transfer.tasks").Task
        self._hooks.place(task, "__init__", self._making_task)
        self._hooks.place(task, "__call__", self._running_task)

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

    def _requesting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def _make_request(client: Any, model: Any, request: dict[str, Any], *rest: Any) -> Any:
            answer = original(client, model, request, *rest)
            write = self._written(model, request, *answer)
            if write is not None:
                write.done()
            return answer

        return _make_request

    def _written(self, model: Any, request: dict[str, Any], http: Any, parsed: Any) -> Write | None:
        """Return who is to hear of a *request* that was answered, if it has written anything."""
        # An error that follows a status of 200 is one of 500 here.
        if not self._hooks.active or model.name not in _WRITES or http.status_code >= 300:
            return None
        if model.name != "DeleteObjects":
            return written(None, request["method"], http.url)
        bucket = http.url.partition("?")[0].rstrip("/")
        listed = ElementTree.fromstring(request["body"]).iterfind("{*}Object")
        asked = {(one.findtext("{*}Key", ""), one.findtext("{*}VersionId")) for one in listed}
        refused = {(error.get("Key"), error.get("VersionId")) for error in parsed.get("Errors", ())}
        gone = {key for key, version in asked if (key, version) not in refused}
        return written(None, "DELETE", *[f"{bucket}/{quote(key)}" for key in gone])

    def _making_task(self, original: Callable[..., None]) -> Callable[..., None]:
        def __init__(task: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807  # what it stands for
            original(task, *args, **kwargs)
            setattr(task, _SETTING, Setting())

        return __init__

    def _running_task(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def __call__(task: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            if not self._hooks.active:
                return original(task, *args, **kwargs)
            setting = getattr(task, _SETTING, None) or Setting()
            return setting.run(lambda: original(task, *args, **kwargs))

        return __call__


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

    def watch(self) -> None:
        """Hook what writes go through, too: all of it runs on the loop."""
        self._hooks.place(getattr(self._library, self._base), "_make_request", self._requesting)

    def _requesting(self, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def _make_request(client: Any, model: Any, request: dict[str, Any], *rest: Any) -> Any:
            with unheard():  # by the hooks on aiohttp or httpx, through which it sends
                answer = await original(client, model, request, *rest)
            write = self._written(model, request, *answer)
            if write is not None:
                await write.adone()
            return answer

        return _make_request
