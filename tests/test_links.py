"""
Links of a whole answer: which places are links, what becomes of all others, and what one batch costs.

Expected URLs are those that `Presigner.url` makes of the same targets.
"""

import asyncio
import collections
import dataclasses
import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Final, Generic, NamedTuple, NewType, TypeVar

import boto3
import jmespath  # type: ignore[import-untyped]
import pydantic
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from faults import FakeMemcached
from fleet import Fleet, counted
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, HttpUrl, RootModel, computed_field
from typing_extensions import TypeAliasType, TypedDict

from presign_middleware import ConfigurationError, NotCovered, Origin, Presigner
from presign_middleware.asgi import PresignMiddleware
from presign_middleware.links import Link, alink, link
from presign_middleware.testing import Clock

SESSION: Final = boto3.Session("AKIALINKS", "secret", region_name="eu-west-1")
PRESIGNER: Final = Presigner(
    Origin("media", bucket="acme", prefix="public/", session=SESSION),
    Origin("films", bucket="acme", prefix="public/films/", session=SESSION),
    Origin("docs", bucket="papers", session=SESSION),
    clock=Clock(),
)
#: Whose origins have a place each, so that a key needs no second look.
ALONE: Final = Presigner(
    Origin("media", bucket="acme", prefix="public/", session=SESSION),
    Origin("docs", bucket="papers", session=SESSION),
    clock=Clock(),
)
KEY: Final = "public/a b+c%20ü.jpg"
DOWNLOAD: Final = {"ResponseContentDisposition": "attachment"}

Media = Annotated[str, Link("media")]


def signed(key: str = KEY, **options: Any) -> str:
    return PRESIGNER.url(f"s3://acme/{key}", **options)


def awaited(*arguments: Any) -> Any:
    return asyncio.run(alink(*arguments))


Linked = Callable[..., Any]
both_colours: Final = pytest.mark.parametrize("linked", [link, awaited], ids=["link", "alink"])


# --- shapes -------------------------------------------------------------------------------------------------


class Photo(BaseModel):
    id: int
    thumbnail: Media
    original: Annotated[str | None, Link("media", params=DOWNLOAD)] = None


class Big(Photo):
    poster: Media | None = None


class Untold(BaseModel):
    name: str = "a"


class Told(Untold):
    portrait: Media


class Page(BaseModel):
    photos: list[Photo]
    owner: Untold | None = None


T = TypeVar("T")


class Box(BaseModel, Generic[T]):
    item: T
    items: list[T] = []
    inner: "Box[T] | None" = None


class Tree(BaseModel):
    photo: Media | None = None
    children: "list[Tree]" = []


class Pair(NamedTuple):
    name: str
    photo: Media


class Entry(TypedDict, total=False):
    photo: Media
    name: str
    more: "list[Entry]"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    photo: Media
    name: str = "a"


@dataclasses.dataclass
class Plain:
    photo: Media
    page: Page | None = None


@pydantic.dataclasses.dataclass
class Checked:
    photo: Media = Field(max_length=40)


class Aliased(BaseModel):
    photo: Media = Field(alias="thePhoto", serialization_alias="photoUrl")


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, validate_assignment=True)
    photo: Media = Field(max_length=40)


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Media]
    id: int = 1


class Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Kinds(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    either: Media | int | list[Media] | dict[str, Media] | Photo | None = None
    nested: dict[str, list[tuple[Media, ...]]] = {}
    mixed: tuple[int, Media, Photo] | None = None
    unique: set[Media] = set()
    still: frozenset[Media] = frozenset()
    queue: collections.deque[Media] = collections.deque()
    listed: Sequence[Media] = ()
    mapped: Mapping[str, Media] = {}
    named: Pair | None = None
    typed: Entry | None = None
    slotted: Slotted | None = None
    plain: Plain | None = None
    checked: Checked | None = None
    whatever: Any = None


Recursive = TypeAliasType("Recursive", "dict[str, Recursive] | list[Recursive] | Media | None")
MediaKey = NewType("MediaKey", str)


class Named(BaseModel):
    alias: TypeAliasType("Alias", Media) | None = None  # type: ignore[valid-type]  # a call, for Python 3.11
    recursive: Recursive | None = None
    new: Annotated[MediaKey, Link("media")] | None = None
    again: Annotated[Media, Link("media", params=DOWNLOAD)] | None = None
    when: datetime | None = None


#: Each makes a value of a key; what it makes of a URL is what is expected of the link.
SHAPES: Final[dict[str, Callable[[str], Any]]] = {
    "a model": lambda k: Photo(id=1, thumbnail=k),
    "a list of models": lambda k: [Photo(id=n, thumbnail=k) for n in range(3)],
    "a dict of tuples": lambda k: {"a": (Photo(id=1, thumbnail=k), 2), "b": 3},
    "a model in a model": lambda k: Page(photos=[Photo(id=1, thumbnail=k)]),
    "a subclass where its base is told": lambda k: Page(photos=[Big(id=1, thumbnail=k, poster=k)]),
    "a subclass of what has none": lambda k: Page(photos=[], owner=Told(portrait=k)),
    "a generic of models": lambda k: Box[Photo](item=Photo(id=1, thumbnail=k)),
    "a generic of links": lambda k: Box[Media](item=k, items=[k], inner=Box[Media](item=k)),
    "a generic of nothing": lambda k: Box(item=Photo(id=1, thumbnail=k)),
    "a tree": lambda k: Tree(children=[Tree(photo=k, children=[Tree(), Tree(photo=k)]), Tree()]),
    "a root model": lambda k: RootModel[list[Media]]([k, k]),
    "a root model of a model": lambda k: RootModel[Photo](Photo(id=1, thumbnail=k)),
    "an alias": lambda k: Aliased(thePhoto=k),
    "a frozen model": lambda k: Frozen.model_construct(photo=k),
    "typed extras": lambda k: Extra.model_validate({"one": k, "two": k}),
    "models in extras": lambda k: Loose.model_validate(
        {"one": [Photo(id=1, thumbnail=k)], "two": "public/a"}
    ),
    "a union: text": lambda k: Kinds(either=k),
    "a union: list": lambda k: Kinds(either=[k]),
    "a union: dict": lambda k: Kinds(either={"a": k}),
    "a union: model": lambda k: Kinds(either=Photo(id=1, thumbnail=k)),
    "nested containers": lambda k: Kinds(nested={"a": [(k, k), ()], "b": []}),
    "a tuple": lambda k: Kinds(mixed=(1, k, Photo(id=1, thumbnail=k))),
    "a set": lambda k: Kinds(unique={k}),
    "a frozen set": lambda k: Kinds(still=frozenset({k})),
    "a queue": lambda k: Kinds(queue=collections.deque([k, k], maxlen=5)),
    "a sequence: list": lambda k: Kinds(listed=[k]),
    "a sequence: tuple": lambda k: Kinds(listed=(k,)),
    "a mapping": lambda k: Kinds(mapped={"a": k}),
    "a named tuple": lambda k: Kinds(named=Pair("public/a", k)),
    "a named tuple alone": lambda k: [Pair("public/a", k)],
    "a typed dict": lambda k: Kinds(typed={"photo": k, "name": "public/a", "more": [{"photo": k}]}),
    "a dataclass with slots": lambda k: Kinds(slotted=Slotted(k)),
    "a dataclass": lambda k: Kinds.model_construct(plain=Plain(k, Page(photos=[Photo(id=1, thumbnail=k)]))),
    "a dataclass of Pydantic's": lambda k: Kinds.model_construct(checked=_checked(k)),
    "dataclasses alone": lambda k: (Slotted(k), {"a": Plain(k)}),
    "models in Any": lambda k: Kinds(whatever=[{"a": {1: Photo(id=1, thumbnail=k)}}, "public/a"]),
    "a default dict": lambda k: collections.defaultdict(list, {"a": [Photo(id=1, thumbnail=k)]}),
    "an alias of a type": lambda k: Named.model_construct(alias=k, new=k),
    "a type of itself": lambda k: Named.model_construct(recursive={"a": [k, {"b": k}, None]}),
}


def _checked(key: str) -> Checked:
    made = Checked("public/a")
    made.photo = key
    return made


@pytest.mark.parametrize("make", SHAPES.values(), ids=SHAPES.keys())
@both_colours
def test_a_link_becomes_a_url(make: Callable[[str], Any], linked: Linked) -> None:
    given, before = make(KEY), make(KEY)
    found = linked(PRESIGNER, given)
    assert found == make(signed())
    assert type(found) is type(given)
    assert given == before


def test_what_a_copy_keeps() -> None:
    """A copy has what the model has: which fields were set, private attributes, the type of a container."""

    class Model(BaseModel):
        photo: Media = "public/default"
        name: str = ""
        others: collections.OrderedDict[str, Media] = collections.OrderedDict()
        _note: list[int] = pydantic.PrivateAttr(default_factory=list)

    given = Model(others=collections.OrderedDict(a=KEY))
    given._note.append(1)
    found = link(PRESIGNER, given)
    assert (found.photo, found._note, found.model_fields_set) == (signed("public/default"), [1], {"others"})
    assert type(found.others) is collections.OrderedDict
    found.name = "new"
    assert "name" not in given.model_fields_set


def test_a_property_that_was_kept_is_made_anew() -> None:
    """What a model or a dataclass has cached was made of the key."""

    class Model(BaseModel):
        photo: Media

        @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
        @cached_property
        def html(self) -> str:
            return f"<img src='{self.photo}'>"

    @dataclasses.dataclass
    class Data:
        photo: Media

        @cached_property
        def html(self) -> str:
            return self.photo

    values: list[Any] = [Model(photo=KEY), Data(KEY)]
    for value in values:
        assert KEY in value.html
        found = link(PRESIGNER, value)
        assert signed() in found.html
        assert signed() not in value.html


def test_a_model_copies_itself_its_own_way() -> None:
    class Model(BaseModel):
        photo: Media

        def __copy__(self) -> "Model":
            copies.append(1)
            return super().__copy__()

    copies: list[int] = []
    assert link(PRESIGNER, Model(photo=KEY)).photo == signed()
    assert copies == [1]


def test_what_holds_no_link_is_the_same_object() -> None:
    page = Page(photos=[Photo(id=1, thumbnail=KEY)], owner=Untold())
    empty, text = Page(photos=[]), {"a": ["public/a", KEY]}
    values: list[Any] = [page, empty, text]
    found, other, same = link(PRESIGNER, values)
    assert found is not page
    assert found.owner is page.owner
    assert other is empty
    assert same is text


def test_none_is_no_link() -> None:
    found = link(PRESIGNER, Photo(id=1, thumbnail=KEY))
    assert found.original is None
    assert link(PRESIGNER, None) is None


def test_the_parameters_of_a_link() -> None:
    """Method, parameters and lifetime are the link's own; of two marks the outer one counts."""

    class Model(BaseModel):
        head: Annotated[str, Link("media", method="HEAD", lifetime=900)] = KEY
        again: Annotated[Media, Link("media", params=DOWNLOAD)] = KEY

    found = link(PRESIGNER, Model())
    assert found.head == signed(method="HEAD", lifetime=900)
    assert found.again == signed(params=DOWNLOAD)


def test_marks_that_are_alike_are_equal() -> None:
    """So that Pydantic makes one class of two generics with like marks."""
    assert Link("media", params=DOWNLOAD) == Link("media", params={**DOWNLOAD})
    assert hash(Link("media", params=DOWNLOAD)) == hash(Link("media", params={**DOWNLOAD}))
    assert Link("media", params=DOWNLOAD) != Link("media")


def test_a_class_is_not_kept_alive() -> None:
    def met() -> weakref.ref[type]:
        class Model(BaseModel):
            photo: Media
            inner: "Model | None" = None
            pair: tuple[Media, int] = (KEY, 1)

        link(PRESIGNER, Model(photo=KEY, inner=Model(photo=KEY)))
        return weakref.ref(Model)

    ref = met()
    gc.collect()
    assert ref() is None


# --- which objects ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("public/a", "public/a"),
        ("public/a%20b", "public/a%20b"),
        ("public/a?b#c", "public/a?b#c"),
        ("public/ü", "public/ü"),
        ("public/.a", "public/.a"),
        ("public//a", "public//a"),
        ("public/s3://b/c", "public/s3://b/c"),
        ("s3://acme/public/a%20b", "public/a%20b"),
        ("https://acme.s3.eu-west-1.amazonaws.com/public/a%20b", None),
        ("https://acme.s3.eu-west-1.amazonaws.com/public/a?versionId=1", None),
    ],
)
@pytest.mark.parametrize("params", [None, DOWNLOAD])
@pytest.mark.parametrize("presigner", [PRESIGNER, ALONE])
def test_a_key_is_taken_as_it_is(
    text: str, key: str | None, params: Mapping[str, str] | None, presigner: Presigner
) -> None:
    """O3, S1: a key or an s3:// target is literal; a URL is a URL, and keeps the form it asks for."""

    class Model(BaseModel):
        photo: Annotated[str, Link("media", params=params)]

    target = text if key is None else f"s3://acme/{key}"
    assert link(presigner, Model(photo=text)).photo == presigner.url(target, params=params)


def test_a_link_without_an_origin_takes_any_target() -> None:
    class Model(BaseModel):
        one: Annotated[str, Link()] = "s3://papers/a"
        other: Annotated[str, Link()] = "s3://acme/public/a"

    found = link(PRESIGNER, Model())
    assert (found.one, found.other) == (PRESIGNER.url("s3://papers/a"), signed("public/a"))


def test_origins_of_one_place() -> None:
    """Of two with one bucket and one prefix a link means the one it names."""
    twins = [
        Origin("one", bucket="acme", session=SESSION),
        Origin("two", bucket="acme", session=SESSION, params=DOWNLOAD),
    ]
    presigner = Presigner(*twins, clock=Clock())

    class Model(BaseModel):
        one: Annotated[str, Link("one")] = "a"
        two: Annotated[str, Link("two")] = "a"

    found = link(presigner, Model())
    assert "response-content-disposition" not in found.one
    assert "response-content-disposition=attachment" in found.two


def test_servers_with_buckets_of_one_name() -> None:
    """A key is of the server of the origin that is named."""
    origins = [
        Origin(name, bucket="acme", endpoint_url=f"http://{name}", region="eu-west-1", session=SESSION)
        for name in ("one", "two")
    ]

    class Model(BaseModel):
        photo: Annotated[str, Link("two")]

    for text in ("a", "s3://acme/a", "http://two/acme/a"):
        assert link(Presigner(*origins, clock=Clock()), Model(photo=text)).photo.startswith(
            "http://two/acme/a?"
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("private/a", ["'media'", "'private/a'", "whole", "begins with 'public/'"]),
        ("", ["'media'", "whole"]),
        ("s3://papers/a", ["s3://papers/a", "'docs'", "'media' was named", "s3://acme/public/"]),
        ("s3://elsewhere/a", ["no origin holds s3://elsewhere/a"]),
        (
            "https://evil.example/public/a?X-Amz-Signature=abc",
            ["no origin holds https://evil.example/public/a"],
        ),
        ("ftp://acme/public/a", ["no target"]),
        ("public/../private/a", ["dot segment"]),
        ("public/./a", ["dot segment"]),
        ("public/\ud800", ["surrogate"]),
        (5, ["text or None", "int"]),
    ],
)
@pytest.mark.parametrize("presigner", [PRESIGNER, ALONE])
def test_what_cannot_be_a_link(text: Any, said: list[str], presigner: Presigner) -> None:
    """O1, O4: bad input is NotCovered, with the path of the field and no query in the message."""
    page = Page.model_construct(
        photos=[Photo(id=1, thumbnail=KEY), Photo.model_construct(id=2, thumbnail=text)]
    )
    for linked in (link, awaited):
        with pytest.raises(NotCovered) as found:
            linked(presigner, {"page": (page,)})
        assert str(found.value).startswith("page[0].photos[1].thumbnail: ")
        assert [words for words in said if words not in str(found.value)] == [], str(found.value)
        assert "Signature" not in str(found.value)


@pytest.mark.parametrize("text", ["public/films/a", "s3://acme/public/films/a"])
def test_a_key_of_an_origin_with_a_longer_prefix(text: str) -> None:
    """O2: the longest prefix wins, whichever was named: its origin may add parameters to every link."""
    with pytest.raises(
        NotCovered, match=r"^thumbnail: .*'films', whose prefix is longer, and 'media' was named"
    ):
        link(PRESIGNER, Photo(id=1, thumbnail=text))


@pytest.mark.parametrize(("text", "said"), [("", "whole"), ("..", "dot segment"), ("./a", "dot segment")])
def test_what_is_no_key_of_a_whole_bucket(text: str, said: str) -> None:
    """O3: no prefix stands before an empty key, or a dot."""

    class Model(BaseModel):
        paper: Annotated[str, Link("docs")]

    with pytest.raises(NotCovered, match=said):
        link(PRESIGNER, Model(paper=text))


def test_a_url_is_no_key() -> None:
    """S5: a copy that is linked once more is refused, and not signed twice."""
    once = link(PRESIGNER, Photo(id=1, thumbnail=KEY))
    with pytest.raises(NotCovered, match=r"^thumbnail: .* is signed already"):
        link(PRESIGNER, once)


def test_an_origin_that_is_not_there() -> None:
    class Model(BaseModel):
        photo: Annotated[str, Link("medai")]

    with pytest.raises(
        ConfigurationError, match=r"^photo: no origin is called 'medai'; known are media .*docs"
    ):
        link(PRESIGNER, Model(photo=KEY))


# --- marks that cannot work ---------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


class Odd(Generic[T]):
    pass


@dataclasses.dataclass
class OddData(Generic[T]):
    item: T


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (Annotated[HttpUrl, Link()], ["HttpUrl", "str or str | None"]),
        (Annotated[int, Link()], ["int"]),
        (Annotated[Colour, Link()], ["Colour"]),
        (Annotated[Any, Link()], ["Any"]),
        (Annotated[list[str], Link()], ["list[str]"]),
        (Annotated[str | int, Link()], ["str | int"]),
        (dict[Media, str], ["dict["]),
        (Odd[Media], ["Odd["]),
        (OddData[Media], ["OddData["]),
        (collections.abc.Iterable[Media], ["Iterable["]),
        (Callable[[Media], int], ["Callable["]),
        (Media | Colour, ["cannot be told", "Colour"]),
        (Media | Annotated[str, Field(max_length=3)], ["cannot be told"]),
        (list[Media] | list[int], ["cannot be told", "list[int]"]),
        (list[Media] | Sequence[int], ["cannot be told", "Sequence[int]"]),
        (Media | Annotated[str, Link("docs")], ["cannot be told"]),
    ],
)
def test_a_mark_that_cannot_work(annotation: Any, said: list[str]) -> None:
    """It is told when the class is first met, whatever the values are, with model and field."""
    model = pydantic.create_model(
        "Model", photo=(annotation, None), __config__=ConfigDict(arbitrary_types_allowed=True)
    )
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"^Model\.photo has a Link that cannot work: ") as found:
            link(PRESIGNER, model())
        assert [words for words in said if words not in str(found.value)] == [], str(found.value)


def test_a_computed_field_cannot_be_marked() -> None:
    class Model(BaseModel):
        @computed_field  # type: ignore[prop-decorator]  # mypy knows no decorated property
        @property
        def photo(self) -> Media:
            return KEY

    with pytest.raises(ConfigurationError, match=r"Model\.photo .*computed"):
        link(PRESIGNER, Model())


def test_a_class_that_is_not_supported() -> None:
    class Own:
        photo: Media

    with pytest.raises(ConfigurationError, match=r"^\[1\]: .*Own\.photo .*dataclass"):
        link(PRESIGNER, [1, Own()])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Link(Photo), "name of an origin.* got ModelMetaclass"),  # type: ignore[arg-type]  # that is it
        (lambda: Link(method="PATCH"), "method must be one of GET.*'PATCH'"),
        (lambda: Link(params={"Range": "1"}), "'Range'"),
    ],
)
def test_a_link_that_cannot_be_made(make: Callable[[], Link], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        make()


def test_settings_that_the_origin_refuses() -> None:
    class Model(BaseModel):
        put: Annotated[str | None, Link("media", method="PUT")] = None
        brief: Annotated[str | None, Link("media", lifetime=1)] = None

    with pytest.raises(NotCovered, match=r"^put: .*PUT"):
        link(PRESIGNER, Model(put=KEY))
    with pytest.raises(ConfigurationError, match=r"^brief: lifetime"):
        link(PRESIGNER, Model(brief=KEY))


# --- paths --------------------------------------------------------------------------------------------------


@both_colours
def test_paths_name_links(linked: Linked) -> None:
    data = {
        "cover": f"s3://acme/{KEY}",
        "photos": [{"url": f"s3://acme/{KEY}", "other": f"s3://acme/{KEY}"}, {"url": None}, {}, None],
        "by id": {"1": {"k": KEY}, "2": {"k": KEY}},
    }
    before = repr(data)
    found = linked(
        PRESIGNER,
        data,
        "cover",
        "photos[*].url",
        "nowhere[*].url",
        {'"by id".*.k': Link("media", params=DOWNLOAD)},
    )
    download = signed(params=DOWNLOAD)
    assert found == {
        "cover": signed(),
        "photos": [{"url": signed(), "other": f"s3://acme/{KEY}"}, {"url": None}, {}, None],
        "by id": {"1": {"k": download}, "2": {"k": download}},
    }
    assert repr(data) == before


def test_a_path_from_a_list() -> None:
    target = f"s3://acme/{KEY}"
    assert link(PRESIGNER, [[target], [None]], "[*][*]") == [[signed()], [None]]
    assert link(PRESIGNER, [{"a": target}], "[*].a") == [{"a": signed()}]
    assert link(PRESIGNER, ({"a": (target,)},), "[*].a[*]") == ({"a": (signed(),)},)


def test_with_paths_marks_do_not_count() -> None:
    photo = Photo(id=1, thumbnail=KEY)
    found = link(PRESIGNER, {"photo": photo, "cover": f"s3://acme/{KEY}"}, "cover")
    assert found["photo"] is photo


@pytest.mark.parametrize(
    "path", ["", ".a", "a.", "a..b", "a[0]", "a[]", "a b", "a-b", "a[*]b", "[*", "$.a", '"a', "a |b"]
)
def test_a_path_that_cannot_be_read(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be read: wanted .*photos\[\*\]"):
        link(PRESIGNER, {}, path)


@pytest.mark.parametrize(
    ("data", "paths", "said"),
    [
        ({"a": [{"b": "s3://acme/public/a"}]}, ["a.b"], r"^a: wanted a dict.*\[\*\].*, got list"),
        ({"a": {"b": "s3://acme/public/a"}}, ["a[*].b"], "^a: wanted a list, got dict"),
        ({"a": [Untold()]}, ["a[*].name"], r"^a\[0\]: wanted a dict.*Link.*, got Untold"),
        ({}, ["a", "a.b"], "'a.b' contradicts"),
        ({}, ["*", {"a": Link("media")}], "'a' contradicts"),
        ({}, [{"a": "media"}], "'a' must lead to a Link, got str"),
        ({}, [5], "text .* got int"),
        (iter([]), [], "wants a list"),
    ],
)
def test_a_path_that_does_not_fit(data: Any, paths: list[Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        link(PRESIGNER, data, *paths)


def test_paths_to_one_place() -> None:
    """A place that two paths lead to is one link."""
    data = {"a": {"x": "s3://acme/public/a", "y": "s3://acme/public/b"}}
    assert link(PRESIGNER, data, "*.x", "a.y", "a.x") == {
        "a": {"x": signed("public/a"), "y": signed("public/b")}
    }


NAMES: Final = ("a", "b", "c d")
LEAVES: Final = st.none() | st.integers() | st.text(max_size=3)
JSON: Final = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=20,
)


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the path of each text in *value*, items and values named alike."""
    if isinstance(value, dict):
        return [p for name, each in value.items() for p in places(each, (*path, name))]
    if isinstance(value, list):
        return [p for each in value for p in places(each, (*path, "[*]"))]
    return [path] if isinstance(value, str) and path else []


def written(path: tuple[str, ...]) -> str:
    steps = [step if step in ("[*]", "a", "b") else f'"{step}"' for step in path]
    return "".join(step if step == "[*]" else f".{step}" for step in steps).removeprefix(".")


def at_each(
    value: Any, paths: set[tuple[str, ...]], change: Callable[[str], str], at: tuple[str, ...] = ()
) -> Any:
    """Return *value* with its texts at *paths* changed: what `link` does, in the plainest way."""
    if isinstance(value, dict):
        return {name: at_each(each, paths, change, (*at, name)) for name, each in value.items()}
    if isinstance(value, list):
        return [at_each(each, paths, change, (*at, "[*]")) for each in value]
    return change(value) if isinstance(value, str) and at in paths else value


def same_where_not_named(given: Any, found: Any) -> bool:
    """Return whether what is equal is the same object."""
    if given == found:
        return given is found
    if isinstance(given, dict):
        return all(same_where_not_named(given[name], found[name]) for name in given)
    return not isinstance(given, list) or all(map(same_where_not_named, given, found))


@given(JSON, st.data())
def test_whatever_is_not_named_stays(data: Any, draw: st.DataObject) -> None:
    """For any JSON and any paths into it; what is given does not change, and JMESPath finds the URLs."""
    texts = sorted(set(places(data)))
    chosen = set(draw.draw(st.lists(st.sampled_from(texts), unique=True))) if texts else set()

    def fits(value: Any, path: tuple[str, ...]) -> bool:
        if not path or value is None:
            return value is None or isinstance(value, str)
        if path[0] == "[*]":
            return isinstance(value, list) and all(fits(each, path[1:]) for each in value)
        return isinstance(value, dict) and fits(value.get(path[0]), path[1:])

    chosen = {path for path in chosen if fits(data, path)}
    data = at_each(data, chosen, lambda text: f"s3://acme/public/{text!a}")
    before = at_each(data, set(), str)
    names = [written(path) for path in chosen]
    found = link(PRESIGNER, data, *names)
    assert found == at_each(data, chosen, PRESIGNER.url)
    assert data == before
    assert same_where_not_named(data, found)
    for name in names:
        wanted = flat(jmespath.search(name, data))
        assert [PRESIGNER.url(target) for target in wanted] == flat(jmespath.search(name, found))


def flat(found: Any) -> list[str]:
    if isinstance(found, list):
        return [text for each in found for text in flat(each)]
    return [] if found is None else [found]


# --- one batch ----------------------------------------------------------------------------------------------


def page_of(number: int) -> Page:
    """Return a page with so many links, half of them with parameters."""
    keys = [f"public/{n}" for n in range(number // 2)]
    return Page(photos=[Photo(id=n, thumbnail=key, original=key) for n, key in enumerate(keys)])


@both_colours
def test_a_thousand_links_are_one_batch(fake: FakeMemcached, fleet: Fleet, linked: Linked) -> None:
    """D4: whatever their parameters, one multi-get brings what another process has signed."""
    one, other = (
        fleet.member(fake.url, fleet.session(name), origins=("media",)) for name in ("ASIAONE", "ASIATWO")
    )
    page = page_of(1000)
    found = linked(one, page)
    before = len(fake.commands)
    assert linked(other, page) == found
    reads = [(name, len(keys)) for name, keys in fake.commands[before:] if name in ("get", "gets")]
    assert reads == [("gets", 1000)]
    assert counted(other, "signed", "from_shared", "shared_misses") == (0, 1000, 0)


def test_an_object_is_resolved_once() -> None:
    """D1: however often it stands in one value."""
    presigner = Presigner(Origin("media", bucket="acme", session=SESSION), clock=Clock())
    link(presigner, [Photo(id=n, thumbnail="a", original="a") for n in range(10)])
    assert counted(presigner, "signed", "resolved") == (2, 20)


def test_a_value_that_changes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another task does to the value while URLs are waited for brings none to another's place."""
    page = page_of(10)
    meant = link(PRESIGNER, page)
    aurls = PRESIGNER.linking.aurls

    async def changed(objects: Any) -> list[str]:
        page.photos.reverse()
        page.photos.pop()
        page.photos[0].thumbnail = "public/other"
        return await aurls(objects)

    monkeypatch.setattr(PRESIGNER.linking, "aurls", changed)
    assert awaited(PRESIGNER, page) == meant


# --- whose presigner ----------------------------------------------------------------------------------------


@both_colours
def test_the_presigner_of_the_scope(linked: Linked) -> None:
    photo = Photo(id=1, thumbnail=KEY)
    with PRESIGNER.scope():
        assert linked(photo).thumbnail == signed()
        assert linked({"a": "s3://papers/a"}, "a") == {"a": PRESIGNER.url("s3://papers/a")}


@both_colours
def test_outside_of_any_scope(linked: Linked) -> None:
    with pytest.raises(ConfigurationError, match=r"presigner\.scope\(\).*PresignMiddleware.*link\(presigner"):
        linked(Photo(id=1, thumbnail=KEY))
    with pytest.raises(TypeError, match="data"):
        linked(PRESIGNER)


# --- FastAPI ------------------------------------------------------------------------------------------------


class PhotoOut(BaseModel):
    thumbnail: Media


class PageOut(BaseModel):
    photos: list[PhotoOut]


@pytest.fixture
def presigner() -> Presigner:
    return Presigner(Origin("media", bucket="acme", prefix="public/", session=SESSION), clock=Clock())


@pytest.fixture
def app(presigner: Presigner) -> FastAPI:
    """Give an application whose answers have a thousand links each, in every way to declare them."""
    app, page = FastAPI(), page_of(1000)

    @app.get("/returned")
    async def returned() -> Page:
        return await alink(page)

    @app.get("/other", response_model=PageOut)
    async def other() -> Any:
        return await alink(page)

    @app.get("/dicts", response_model=Page)
    async def dicts() -> Any:
        return await alink(
            page.model_dump(),
            {"photos[*].thumbnail": Link("media"), "photos[*].original": Link("media", params=DOWNLOAD)},
        )

    @app.get("/sync")
    def sync() -> list[Photo]:
        return link(page).photos

    app.add_middleware(PresignMiddleware, presigner=presigner)
    return app


@pytest.mark.usefixtures("own_hooks")
@pytest.mark.parametrize("path", ["/returned", "/other", "/dicts", "/sync"])
def test_an_endpoint_answers_with_links(app: FastAPI, presigner: Presigner, path: str) -> None:
    """D1: what FastAPI does with the copy, validating it anew or not, signs nothing more."""
    with TestClient(app) as client:
        answer = client.get(path).json()
    photos = answer if isinstance(answer, list) else answer["photos"]
    assert counted(presigner, "resolved", "signed") == (1000, 1000)
    assert [photo["thumbnail"] for photo in photos] == presigner.urls(
        f"s3://acme/public/{n}" for n in range(500)
    )


def test_the_schema_of_a_link_is_that_of_text() -> None:
    class Bare(BaseModel):
        thumbnail: str

    assert PhotoOut.model_json_schema()["properties"] == Bare.model_json_schema()["properties"]
