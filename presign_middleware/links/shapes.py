"""
Where the links of a value are, and a copy of it that has URLs there.

A value is walked once, by a tree of *nodes*: each knows what one place may hold. What
holds no link is kept as it is; what holds one is copied at once, the object is noted
in the `Batch`, and its URL is put into the copy when all of them have been found. So
nothing that happens to the value meanwhile can bring a URL to another's place.

A node refers to no class, or a class would live as long as its plan does.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple, NoReturn, Protocol

from ..errors import ConfigurationError, NotCovered, PresignError
from ..objects import S3Object
from .marks import Link

__all__ = [
    "ANY",
    "SEQUENCES",
    "Ahead",
    "Batch",
    "Dataclass",
    "Either",
    "Fixed",
    "Items",
    "Leaf",
    "Model",
    "Names",
    "Node",
    "Values",
    "copied",
]

#: What may stand for a list.
SEQUENCES = (list, tuple, set, frozenset, deque)

#: Those of them that have no items to be replaced.
_MADE_OF_PARTS = (tuple, set, frozenset)

Finder = Callable[[str], S3Object]


class Node(Protocol):
    """What one place may hold."""

    def walk(self, value: Any, batch: "Batch") -> Any:
        """
        Return *value* if it holds no link, else what stands in its place: a copy, or one that comes later.

        Raises:
            NotCovered, ConfigurationError: A link that cannot be made. Each node notes in
                ``batch.steps`` where it has been, from the inside out.
        """


class _URL:
    """Stands for a URL that comes later: of the object that was noted last."""


_URL_TO_COME = _URL()


class _Later(NamedTuple):
    """Stands for what cannot be changed once it is made, so it is made when its URLs are there."""

    parts: Any
    make: Callable[[Any], Any]


class _Finders(dict["Leaf", Finder]):
    """What makes objects of the texts of each leaf, for one presigner."""

    def __init__(self, finder: Callable[..., Finder]) -> None:
        self._finder = finder

    def __missing__(self, leaf: "Leaf") -> Finder:
        link = leaf.link
        found = self[leaf] = self._finder(link.origin, link.method, link.wire, link.lifetime)
        return found


class _Nodes(dict[type, "Node | None"]):
    """The nodes of the classes that one value has met: held for as long as it is walked."""

    def __init__(self, node_of: Callable[[type], "Node | None"]) -> None:
        self._node_of = node_of

    def __missing__(self, cls: type) -> "Node | None":
        node = self[cls] = self._node_of(cls)
        return node


class Batch:
    """The links of one value: the objects they are of, and where in its copy their URLs belong."""

    __slots__ = ("_laters", "finders", "holders", "keys", "nodes", "objects", "steps")

    def __init__(self, finder: Callable[..., Finder], node_of: Callable[[type], Node | None]) -> None:
        self.finders = _Finders(finder)
        self.nodes = _Nodes(node_of)
        self.objects: list[S3Object] = []
        self.holders: list[Any] = []  # of each object's URL: a dict or a list
        self.keys: list[Any] = []  # where in its holder
        self.steps: list[str] = []  # to what has failed, the innermost first
        self._laters: list[tuple[Any, Any, _Later]] = []  # the innermost first

    def put(self, holder: Any, key: Any, made: Any) -> None:
        """Put what a node has *made* into its place, now or once it is there."""
        if made is _URL_TO_COME:
            self.holders.append(holder)
            self.keys.append(key)
        elif type(made) is _Later:
            self._laters.append((holder, key, made))
        else:
            holder[key] = made

    def fill(self, urls: Sequence[str]) -> None:
        """Put *urls* into their places, in the order of the objects."""
        for holder, key, url in zip(self.holders, self.keys, urls, strict=True):
            holder[key] = url
        for holder, key, later in self._laters:
            holder[key] = later.make(later.parts)


def copied(node: Node, value: Any, batch: Batch) -> list[Any]:
    """
    Return a list of one: the copy of *value*, to be looked at when *batch* is filled.

    Raises:
        NotCovered, ConfigurationError: As from `Node.walk`; the message begins with the path.
    """
    top = [value]
    try:
        made = node.walk(value, batch)
    except PresignError as error:
        if not batch.steps:
            raise
        path = "".join(reversed(batch.steps)).removeprefix(".")
        raise type(error)(f"{path}: {error}") from None
    if made is not value:
        batch.put(top, 0, made)
    return top


class Leaf:
    """A link: text, or None."""

    __slots__ = ("link",)

    def __init__(self, link: Link) -> None:
        self.link = link

    def walk(self, value: Any, batch: Batch) -> Any:
        if value is None:
            return None
        batch.objects.append(batch.finders[self](value) if isinstance(value, str) else _no_text(value))
        return _URL_TO_COME


class _Anything:
    """A place that has no mark: whatever models are met there have theirs."""

    def walk(self, value: Any, batch: Batch) -> Any:
        node = batch.nodes[type(value)]
        return value if node is None else node.walk(value, batch)


ANY = _Anything()


class Items:
    """Items that are all alike."""

    __slots__ = ("_item", "_types")

    def __init__(self, item: Node, types: tuple[type, ...] = SEQUENCES) -> None:
        self._item = None if item is ANY else item
        self._types = types

    def walk(self, value: Any, batch: Batch) -> Any:
        if not isinstance(value, self._types):
            return _unfit(value, f"a {self._types[0].__name__}")
        items: Any = value
        parts: Any = None
        given, nodes = self._item, batch.nodes
        for index, item in enumerate(items):
            try:
                node = given or nodes[type(item)]
                if node is None:
                    continue
                made = node.walk(item, batch)
            except PresignError:
                batch.steps.append(f"[{index}]")
                raise
            if made is not item:
                if parts is None:
                    parts = list(value) if isinstance(value, _MADE_OF_PARTS) else copy(value)
                if made is _URL_TO_COME or type(made) is _Later:
                    batch.put(parts, index, made)
                else:
                    parts[index] = made
        if parts is None:
            return value
        return _Later(parts, _maker(value)) if isinstance(value, _MADE_OF_PARTS) else parts


class Names:
    """A mapping with some keys that are known, and a node for each of the others; None: they are kept."""

    __slots__ = ("_names", "_others")

    def __init__(self, names: Mapping[str, Node], others: Node | None = None) -> None:
        self._names = names
        self._others = others

    def walk(self, value: Any, batch: Batch) -> Any:
        if not isinstance(value, dict):
            return _unfit(
                value, "a dict (each item of a list is [*], and a model's own fields are marked with Link)"
            )
        new = None
        names = self._names
        for key in names if self._others is None else value:
            item = value.get(key)
            node = names.get(key) or self._others
            if item is None or node is None:
                continue
            try:
                made = node.walk(item, batch)
            except PresignError:
                batch.steps.append(f".{key}")
                raise
            if made is not item:
                if new is None:
                    new = copy(value)
                batch.put(new, key, made)
        return value if new is None else new


class Values(Names):
    """A mapping whose values are all alike."""

    __slots__ = ()

    def __init__(self, value: Node) -> None:
        super().__init__({}, value)


class Model:
    """A Pydantic model."""

    __slots__ = ("_copied", "_extra", "_fields", "_links")

    def __init__(
        self,
        fields: Mapping[str, Node],
        extra: Node | None,  # of the dict of what a model has beside its fields
        copied: Callable[[Any], Any],  # makes a shallow copy
    ) -> None:
        # Apart, since links of a thousand models are what takes the time: no call for each of them.
        self._links = tuple([(name, node) for name, node in fields.items() if isinstance(node, Leaf)])
        self._fields = tuple([(name, node) for name, node in fields.items() if not isinstance(node, Leaf)])
        self._extra = extra
        self._copied = copied

    def walk(self, value: Any, batch: Batch) -> Any:
        have, there, new = value.__dict__, None, None
        for name, leaf in self._links:
            text = have.get(name)
            if text is None:
                continue
            try:
                batch.objects.append(batch.finders[leaf](text) if isinstance(text, str) else _no_text(text))
            except PresignError:
                batch.steps.append(f".{name}")
                raise
            if there is None:
                new = self._copied(value)
                there = new.__dict__
            batch.holders.append(there)
            batch.keys.append(name)
        if self._fields or self._extra:
            return self._walk_others(value, new, batch)
        return value if new is None else new

    def _walk_others(self, value: Any, new: Any, batch: Batch) -> Any:
        """Return what `walk` does where *new* is the copy, if there is one already."""
        have, extra = value.__dict__, value.__pydantic_extra__
        for name, node in self._fields:
            item = have.get(name)
            if item is None:
                continue
            try:
                made = node.walk(item, batch)
            except PresignError:
                batch.steps.append(f".{name}")
                raise
            if made is not item:
                new = self._copied(value) if new is None else new  # it may be one that is false
                batch.put(new.__dict__, name, made)
        made = self._extra.walk(extra, batch) if self._extra and extra else extra
        if made is not extra:
            new = self._copied(value) if new is None else new
            object.__setattr__(new, "__pydantic_extra__", made)
        return value if new is None else new


class Dataclass:
    """A dataclass. It may be frozen, and have slots."""

    __slots__ = ("_copied", "_fields")

    def __init__(self, fields: Mapping[str, Node], copied: Callable[[Any], Any]) -> None:
        self._fields = fields
        self._copied = copied

    def walk(self, value: Any, batch: Batch) -> Any:
        places = [(name, getattr(value, name, None), f".{name}", node) for name, node in self._fields.items()]
        parts = _walked(places, batch)
        return value if parts is None else _Later(parts, partial(self._made, value))

    def _made(self, value: Any, parts: Mapping[str, Any]) -> Any:
        new = self._copied(value)
        for name, part in parts.items():
            object.__setattr__(new, name, part)  # which a frozen one does not see
        return new


class Fixed:
    """A tuple whose items each have a node of their own; None: it is kept."""

    __slots__ = ("_items",)

    def __init__(self, items: Sequence[Node | None]) -> None:
        self._items = items

    def walk(self, value: Any, batch: Batch) -> Any:
        if not isinstance(value, tuple):
            return _unfit(value, "a tuple")
        pairs = enumerate(zip(value, self._items, strict=False))
        parts = _walked([(at, item, f"[{at}]", node) for at, (item, node) in pairs if node], batch)
        return value if parts is None else _Later(parts, partial(_made_tuple, value))


class Either:
    """What is known by its type: the first of *nodes* whose types it has, else *other*."""

    __slots__ = ("_nodes", "_other")

    def __init__(self, nodes: Sequence[tuple[tuple[type, ...], Node]], other: Node) -> None:
        self._nodes = nodes
        self._other = other

    def walk(self, value: Any, batch: Batch) -> Any:
        for types, node in self._nodes:
            if isinstance(value, types):
                return node.walk(value, batch)
        return self._other.walk(value, batch)


class Ahead:
    """What is not known yet, since it holds itself."""

    __slots__ = ("node",)

    node: Node

    def walk(self, value: Any, batch: Batch) -> Any:
        return self.node.walk(value, batch)


def _no_text(value: Any) -> NoReturn:
    raise NotCovered(f"a link must be text or None, got {type(value).__name__}")


def _walked(places: Sequence[tuple[Any, Any, str, Node]], batch: Batch) -> dict[Any, Any] | None:
    """Return what is to be changed in *places*, each a key, its value, how it is told, and its node."""
    parts: dict[Any, Any] = {}
    has_changed = False
    for key, item, step, node in places:
        try:
            made = node.walk(item, batch)
        except PresignError:
            batch.steps.append(step)
            raise
        if made is not item:
            has_changed = True
            batch.put(parts, key, made)
    return parts if has_changed else None


def _made_tuple(value: tuple[Any, ...], parts: Mapping[int, Any]) -> Any:
    return _maker(value)([parts.get(index, item) for index, item in enumerate(value)])


def _maker(value: Any) -> Callable[[Any], Any]:
    """Return what makes another of *value*'s kind of a list; a named tuple has a name for it."""
    maker: Callable[[Any], Any] = getattr(value, "_make", type(value))
    return maker


def _unfit(value: Any, wanted: str) -> None:
    """Raise ConfigurationError unless *value* is None, in which there is no link."""
    if value is not None:
        raise ConfigurationError(f"wanted {wanted}, got {type(value).__name__}")
