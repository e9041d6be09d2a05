"""``@presigned``: which argument becomes a URL, on which kinds of function, and whose presigner signs."""

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import boto3
import pytest

from presign_middleware import ConfigurationError, NotCovered, Origin, Presigner, presigned
from presign_middleware.testing import Clock

TARGET = "s3://media/a"

PRESIGNER = Presigner(
    Origin(
        "media",
        bucket="media",
        session=boto3.Session(
            aws_access_key_id="AKIATEST", aws_secret_access_key="secret", region_name="eu-west-1"
        ),
    ),
    clock=Clock(),
)
SIGNED = PRESIGNER.url(TARGET)


@presigned
def fetch(url: str, times: int = 1) -> tuple[str, int]:
    """Fetch a URL."""
    return url, times


@presigned
async def afetch(url: str, times: int = 1) -> tuple[str, int]:
    """Fetch a URL."""
    await asyncio.sleep(0)
    return url, times


def called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return what *function* returns, awaited if it is a coroutine."""
    answer = function(*args, **kwargs)
    if not inspect.iscoroutine(answer):
        return answer

    async def finish() -> Any:
        return await answer

    return asyncio.run(finish())


both_ways = pytest.mark.parametrize("function", [fetch, afetch])


# What a decorated function looks like.


@both_ways
def test_a_function_keeps_its_looks(function: Callable[..., Any]) -> None:
    """A decorated function keeps name, docstring, signature and colour."""
    assert function.__name__ in ("fetch", "afetch")
    assert function.__qualname__ == function.__name__
    assert function.__module__ == __name__
    assert function.__doc__ == "Fetch a URL."
    assert list(inspect.signature(function).parameters) == ["url", "times"]
    assert inspect.iscoroutinefunction(function) is (function is afetch)
    assert asyncio.iscoroutinefunction(function) is (function is afetch)
    assert function.__annotations__["return"] == tuple[str, int]


# Which argument is the target.


@both_ways
@pytest.mark.parametrize(
    ("args", "kwargs", "times"),
    [
        ((TARGET,), {}, 1),
        ((TARGET, 2), {}, 2),
        ((TARGET,), {"times": 2}, 2),
        ((), {"url": TARGET}, 1),
        ((), {"times": 2, "url": TARGET}, 2),
    ],
)
def test_positions_and_names(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], times: int
) -> None:
    """The target becomes its URL whether it is given by position or by name, and the rest stays as it is."""
    with PRESIGNER.scope():
        assert (SIGNED, times) == called(function, *args, **kwargs)


@both_ways
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((TARGET, 1, 2), {}), ((TARGET,), {"url": TARGET}), ((TARGET,), {"other": 1})],
)
def test_wrong_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Arguments that do not fit raise the TypeError that Python raises without the decorator."""
    with PRESIGNER.scope(), pytest.raises(TypeError, match=r"argument"):
        called(function, *args, **kwargs)


def test_a_default_is_left_alone() -> None:
    """A target that is left out is not signed: the function's default stands, scope or none."""

    @presigned
    def function(url: str | None = None, times: int = 1) -> tuple[str | None, int]:
        return url, times

    assert function() == (None, 1)
    assert function(times=3) == (None, 3)


def test_the_argument_called_url() -> None:
    """The argument called url is the target, wherever it stands."""

    @presigned(PRESIGNER)
    def function(bucket: str, *, url: str) -> tuple[str, str]:
        return bucket, url

    assert function("s3://media/b", url=TARGET) == ("s3://media/b", SIGNED)


def test_the_first_argument() -> None:
    """Where no argument is called url the first is the target."""

    @presigned(PRESIGNER)
    def function(source: str, /, to: str) -> tuple[str, str]:
        return source, to

    assert function(TARGET, "s3://media/b") == (SIGNED, "s3://media/b")


def test_the_argument_that_arg_names() -> None:
    """arg= names the target, even where another argument is called url."""

    @presigned(PRESIGNER, arg="source")
    def function(url: str, source: str) -> tuple[str, str]:
        return url, source

    assert function("s3://media/b", TARGET) == ("s3://media/b", SIGNED)
    assert function(source=TARGET, url="s3://media/b") == ("s3://media/b", SIGNED)


def test_an_argument_by_name_alone() -> None:
    """A keyword-only target is never taken from among the positional arguments."""

    @presigned(PRESIGNER)
    def function(*parts: str, url: str | None = None) -> tuple[tuple[str, ...], str | None]:
        return parts, url

    assert function(TARGET, "b") == ((TARGET, "b"), None)
    assert function("b", url=TARGET) == (("b",), SIGNED)


@pytest.mark.parametrize("arg", ["src", "args", "kwargs"])
def test_an_argument_that_is_not_there(arg: str) -> None:
    """An arg= that the function does not have is a ConfigurationError at decoration, naming what it has."""

    def download(source: str, to: str, *args: Any, **kwargs: Any) -> None:
        raise AssertionError("not called")

    with pytest.raises(ConfigurationError, match=rf"download\(\).*\b{arg}\b.*source, to"):
        presigned(PRESIGNER, arg=arg)(download)


def test_a_function_without_arguments() -> None:
    """A function without arguments cannot be decorated."""

    def nothing() -> None:
        raise AssertionError("not called")

    with pytest.raises(ConfigurationError, match=r"nothing\(\)"):
        presigned(nothing)


def test_what_is_no_function() -> None:
    """Decorating what is no function is a ConfigurationError that says what was given."""
    wrong: Any = "media"
    with pytest.raises(ConfigurationError, match="got str"):
        presigned(wrong)


# Which kinds of function.


class Store:
    """Every kind of method, decorated on either side of what makes it that kind."""

    name = "store"

    @presigned
    def method(self, url: str) -> tuple[str, str]:
        return self.name, url

    @presigned
    async def amethod(self, url: str) -> tuple[str, str]:
        return self.name, url

    @presigned()
    def first_after_self(self, source: str) -> tuple[str, str]:
        return self.name, source

    @presigned(PRESIGNER, arg="source")
    def named(self, times: int, source: str) -> tuple[str, str]:
        assert times == 1
        return self.name, source

    @classmethod
    @presigned
    def class_method(cls, source: str) -> tuple[str, str]:
        return cls.name, source

    @presigned
    @classmethod
    def outer_class_method(cls, source: str) -> tuple[str, str]:
        return cls.name, source

    @classmethod
    @presigned
    async def async_class_method(cls, source: str) -> tuple[str, str]:
        return cls.name, source

    @staticmethod
    @presigned
    def static_method(source: str) -> tuple[str, str]:
        return "store", source

    @presigned
    @staticmethod
    def outer_static_method(source: str) -> tuple[str, str]:
        return "store", source


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (Store().method, (TARGET,)),
        (Store.method, (Store(), TARGET)),
        (Store().amethod, (TARGET,)),
        (Store.amethod, (Store(), TARGET)),
        (Store().first_after_self, (TARGET,)),
        (Store.first_after_self, (Store(), TARGET)),
        (Store().named, (1, TARGET)),
        (Store.named, (Store(), 1, TARGET)),
        (Store().class_method, (TARGET,)),
        (Store.class_method, (TARGET,)),
        (Store().outer_class_method, (TARGET,)),
        (Store.outer_class_method, (TARGET,)),
        (Store().async_class_method, (TARGET,)),
        (Store.async_class_method, (TARGET,)),
        (Store().static_method, (TARGET,)),
        (Store.static_method, (TARGET,)),
        (Store().outer_static_method, (TARGET,)),
        (Store.outer_static_method, (TARGET,)),
    ],
)
def test_methods(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """A method's target is the first argument after self or cls, called on an instance or on its class."""
    with PRESIGNER.scope():
        assert called(function, *args) == ("store", SIGNED)


class Fetching:
    """An object that is called."""

    def __call__(self, url: str) -> tuple[str, int]:
        return url, 1


@pytest.mark.parametrize("function", [partial(lambda times, url: (url, times), 1), Fetching()])
def test_what_is_called_and_has_no_name(function: Callable[..., Any]) -> None:
    """A partial function, or an object with __call__, is decorated as any, and errors name its class."""
    with PRESIGNER.scope():
        assert presigned(function)(TARGET) == (SIGNED, 1)
    with pytest.raises(ConfigurationError, match=type(function).__name__):
        presigned(function)(TARGET)
    with pytest.raises(ConfigurationError, match="no argument there"):
        presigned(PRESIGNER, arg="there")(function)


def test_a_method_by_name() -> None:
    """A method called on its class takes its target by name too."""
    with PRESIGNER.scope():
        assert Store.method(Store(), url=TARGET) == ("store", SIGNED)
        assert Store().method(url=TARGET) == ("store", SIGNED)


def test_a_method_without_its_target() -> None:
    """A method called without its target raises Python's own TypeError."""
    broken: Any = Store().method
    with PRESIGNER.scope(), pytest.raises(TypeError, match="argument"):
        broken()


def test_generators() -> None:
    """A generator function yields of the signed URL."""

    @presigned(PRESIGNER)
    def lines(url: str) -> Iterator[str]:
        yield url

    assert list(lines(TARGET)) == [SIGNED]
    assert inspect.isgeneratorfunction(lines)


def test_async_generators() -> None:
    """An async generator function yields of the signed URL, and is iterated without being awaited."""

    @presigned(PRESIGNER)
    async def lines(url: str) -> AsyncIterator[str]:
        yield url

    async def collect() -> list[str]:
        return [line async for line in lines(TARGET)]

    assert asyncio.run(collect()) == [SIGNED]
    assert inspect.isasyncgenfunction(lines)


def test_async_generators_are_closed() -> None:
    """Closing a decorated async generator runs to the end of the function's own finally."""
    closed = []

    @presigned(PRESIGNER)
    async def lines(url: str) -> AsyncGenerator[str, None]:
        try:
            yield url
        finally:
            await asyncio.sleep(0)
            closed.append(url)

    async def take_one() -> list[str]:
        found = lines(TARGET)
        assert await anext(found) == SIGNED
        await found.aclose()
        return list(closed)

    assert asyncio.run(take_one()) == [SIGNED]


# Whose presigner.


@both_ways
def test_outside_a_scope(function: Callable[..., Any]) -> None:
    """Without a presigner and outside any scope the call is a ConfigurationError that names the cures."""
    with pytest.raises(ConfigurationError) as found:
        called(function, TARGET)
    for cure in ("with presigner.scope():", "PresignMiddleware", "@presigned(presigner)"):
        assert cure in str(found.value)
    assert f"{function.__name__}()" in str(found.value)


def test_an_explicit_presigner_wins() -> None:
    """A presigner given to the decorator signs inside another's scope and outside any."""
    other = Presigner("s3://films/?region=eu-west-1", clock=Clock())

    @presigned(PRESIGNER)
    def function(url: str) -> str:
        return url

    assert function(TARGET) == SIGNED
    with other.scope():
        assert function(TARGET) == SIGNED


@both_ways
def test_the_inner_scope_wins(function: Callable[..., Any]) -> None:
    """The presigner is that of the innermost scope in which the call is made."""
    other = Presigner("s3://films/?region=eu-west-1", clock=Clock())
    with PRESIGNER.scope():
        with other.scope(), pytest.raises(NotCovered, match="films"):
            called(function, TARGET)
        assert called(function, TARGET) == (SIGNED, 1)


@both_ways
def test_a_target_that_is_not_covered(function: Callable[..., Any]) -> None:
    """A target that no origin holds raises NotCovered, and the function is not called."""
    with PRESIGNER.scope(), pytest.raises(NotCovered, match="s3://elsewhere/a"):
        called(function, "s3://elsewhere/a")
