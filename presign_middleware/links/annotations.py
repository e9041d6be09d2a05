"""
Which fields of a class are marked with `Link`: its node, made once and kept as long as the class lives.

Only annotations are looked at, never values. A mark in a place where no value can be
replaced is refused when the class is first met.
"""

import inspect
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from copy import copy
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin
from uuid import UUID
from weakref import WeakKeyDictionary

from ..errors import ConfigurationError
from .marks import Link
from .shapes import ANY, SEQUENCES, Ahead, Dataclass, Either, Fixed, Items, Leaf, Model, Names, Node, Values

__all__ = ["node_of"]

#: Values that hold nothing.
_PLAIN = (
    *(str, bytes, int, float, complex, types.NoneType, Enum, Decimal, UUID, PurePath),
    *(date, time, timedelta),
)

#: What typing writes around the type of a field.
_WRAPPERS = frozenset({"Required", "NotRequired", "ReadOnly", "Final"})

_nodes: WeakKeyDictionary[type, Node | None] = WeakKeyDictionary()


def node_of(cls: type) -> Node | None:
    """
    Return the node of what is a *cls*; None: it holds no link.

    Raises:
        ConfigurationError: It has a mark that cannot work; class and field are named.
    """
    try:
        return _nodes[cls]
    except KeyError:
        node = _nodes[cls] = _made(cls)
        return node


def _made(cls: type) -> Node | None:
    base = getattr(sys.modules.get("pydantic"), "BaseModel", None)
    if base is not None and issubclass(cls, base):
        return _model(cls, base)
    if is_dataclass(cls):
        found = _marked_nodes(cls, _hints(cls, [field.name for field in fields(cls)]))
        return Dataclass(found, _copier(cls, copy)) if found else None
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        found = _marked_nodes(cls, _hints(cls, cls._fields))
        return Fixed([found.get(name) for name in cls._fields]) if found else None
    if issubclass(cls, SEQUENCES):
        return Items(ANY)
    if issubclass(cls, dict):
        return Values(ANY)
    for name in [name for each in cls.__mro__ for name, tp in _annotations(each).items() if _mentions(tp)]:
        _refuse(f"{cls.__qualname__}.{name}", "it is no Pydantic model, dataclass, named tuple or TypedDict")
    return None


def _model(cls: Any, base: Any) -> Node | None:
    if not cls.__pydantic_complete__:
        try:
            cls.model_rebuild()
        except Exception as error:
            _refuse(cls.__qualname__, f"its annotations cannot be read: {error}")
    for name, computed in cls.model_computed_fields.items():
        if _mentions(computed.return_type):
            _refuse(f"{cls.__qualname__}.{name}", "it is computed, and a link is put into a field")
    found = _marked_nodes(cls, {name: _annotation(field) for name, field in cls.model_fields.items()})
    extra = _extra(cls) if cls.model_config.get("extra") == "allow" else None
    if not found and extra is None:
        return None
    return Model(found, extra, _copier(cls, _shallow(base) if cls.__copy__ is base.__copy__ else copy))


def _annotation(field: Any) -> Any:
    """Return the annotation of a Pydantic *field*, which takes it apart."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _extra(cls: type) -> Node | None:
    """Return the node of what a model *cls* has beside its fields; it may say of which type that is."""
    where = f"{cls.__qualname__}.__pydantic_extra__"
    for each in cls.__mro__[: cls.__mro__.index(sys.modules["pydantic"].BaseModel)]:
        if "__pydantic_extra__" in _annotations(each):
            try:
                declared = inspect.get_annotations(each, eval_str=True)["__pydantic_extra__"]
            except Exception as error:
                _refuse(where, f"its annotation cannot be read: {error}")
            node = _Reader(where).node((*get_args(declared), Any, Any)[1])
            return None if node is None else Values(node)
    return Values(ANY)


def _hints(cls: Any, names: Iterable[str]) -> dict[str, Any]:
    known = getattr(cls, "__pydantic_fields__", None)
    if known is not None:
        return {name: _annotation(known[name]) for name in names if name in known}
    hints = _read(cls)
    return {name: hints.get(name, Any) for name in names}


def _read(cls: Any) -> dict[str, Any]:
    """Return the annotations of *cls*, with whatever stands in quotes read."""
    try:
        return typing.get_type_hints(cls, include_extras=True)
    except Exception as error:
        _refuse(cls.__qualname__, f"its annotations cannot be read: {error}")


def _marked_nodes(cls: type, hints: Mapping[str, Any]) -> dict[str, Node]:
    found = {name: _Reader(f"{cls.__qualname__}.{name}").node(hint) for name, hint in hints.items()}
    return {name: node for name, node in found.items() if node is not None}


def _copier(cls: type, copied: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return *copied* without the properties that *cls* keeps in its instances: they were made of keys."""
    own = [pair for each in cls.__mro__ for pair in vars(each).items()]
    cached = {name for name, value in own if isinstance(value, cached_property)}
    if not cached:
        return copied

    def copied_without(value: Any) -> Any:
        new = copied(value)
        for name in cached:
            new.__dict__.pop(name, None)
        return new

    return copied_without


def _shallow(base: type) -> Callable[[Any], Any]:
    """Return what does what ``__copy__()`` of Pydantic's *base* model does, in less than half the time."""
    # The slots themselves: a model's own way to set attributes may be frozen, or validate.
    slots = ("__dict__", "__pydantic_extra__", "__pydantic_fields_set__", "__pydantic_private__")
    put, put_extra, put_fields_set, put_private = [vars(base)[name].__set__ for name in slots]
    new = object.__new__

    def copied(model: Any) -> Any:
        made: Any = new(type(model))
        extra, private = model.__pydantic_extra__, model.__pydantic_private__
        put(made, model.__dict__.copy())
        put_extra(made, None if extra is None else extra.copy())
        put_fields_set(made, model.__pydantic_fields_set__.copy())
        put_private(made, None if private is None else private.copy())
        return made

    return copied


class _Reader:
    """Reads the annotation of one field."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._aheads: dict[Any, Ahead] = {}

    def node(self, tp: Any) -> Node | None:
        """Return the node of what is a *tp*; None: it holds no link."""
        if not _mentions(tp):
            return None if _is_plain(tp) else ANY
        return self._marked(tp)

    def _marked(self, tp: Any) -> Node | None:
        origin, arguments = get_origin(tp), get_args(tp)
        if origin is Annotated:
            links = [each for each in tp.__metadata__ if isinstance(each, Link)]
            if not links:
                return self.node(tp.__origin__)
            if not _is_text(tp.__origin__):
                _refuse(self._where, f"it marks {_told(tp.__origin__)}, and a link is str or str | None")
            return Leaf(links[-1])  # the outermost: an alias can be given other parameters
        if _is_union(origin):
            return self._either([each for each in arguments if each is not types.NoneType])
        inner = _inner(tp)
        if inner is not None or _is_typed_dict(tp):
            return self._named(tp, inner)
        if getattr(origin, "_name", None) in _WRAPPERS:
            return self.node(arguments[0])
        return self._container(tp, origin, arguments)

    def _container(self, tp: Any, origin: Any, arguments: Sequence[Any]) -> Node:
        if not isinstance(origin, type) or _is_typed_dict(origin):
            origin = object
        if issubclass(origin, tuple) and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            return Fixed([self.node(each) for each in arguments])
        if issubclass(origin, (Sequence, Set)) or origin is deque:
            return Items(self.node(arguments[0]) or ANY, _kinds(tp))
        if issubclass(origin, Mapping) and len(arguments) == 2 and not _mentions(arguments[0]):
            return Values(self.node(arguments[1]) or ANY)
        return _refuse(self._where, f"it is a mark inside {_told(tp)}, where no value can be replaced")

    def _named(self, tp: Any, inner: Any) -> Node | None:
        """Return the node of a type that has a name, and may hold itself by that."""
        if tp in self._aheads:
            return self._aheads[tp]
        ahead = self._aheads[tp] = Ahead()
        if inner is not None:
            node = self.node(inner)
        else:
            nodes = {name: self.node(hint) for name, hint in _read(tp).items()}
            node = Names({name: each for name, each in nodes.items() if each is not None})
        ahead.node = node or ANY
        return node

    def _either(self, members: Sequence[Any]) -> Node | None:
        if len(members) == 1:
            return self.node(members[0])
        marked: list[tuple[tuple[type, ...], Node]] = []
        for member in members:
            if not _mentions(member):
                continue
            kinds = _kinds(member)
            for other in members:
                if other is not member and _overlap(kinds, _kinds(other)):
                    _refuse(
                        self._where, f"a value of {_told(member)} cannot be told from one of {_told(other)}"
                    )
            marked.append((kinds, self.node(member) or ANY))
        return Either(marked, ANY)


def _mentions(tp: Any, seen: set[int] | None = None) -> bool:
    """Return whether *tp* has a mark that is not of another class' own."""
    if isinstance(tp, Link):
        return True
    seen = set() if seen is None else seen
    if id(tp) in seen:
        return False
    seen.add(id(tp))
    if isinstance(tp, list):  # the arguments of a callable
        return any(_mentions(each, seen) for each in tp)
    if _is_typed_dict(tp):
        return any(_mentions(hint, seen) for hint in _read(tp).values())
    inner = _inner(tp)
    if inner is not None:
        return _mentions(inner, seen)
    origin = get_origin(tp)
    return (
        _mentions(origin, seen) if _is_typed_dict(origin) else any(_mentions(e, seen) for e in get_args(tp))
    )


def _is_plain(tp: Any) -> bool:
    """Return whether no value of *tp* holds a model."""
    origin, arguments = get_origin(tp), get_args(tp)
    if origin is Annotated:
        return _is_plain(tp.__origin__)
    if origin is Literal or tp is None or tp is Ellipsis:
        return True
    if _is_union(origin) or (isinstance(origin, type) and issubclass(origin, (*SEQUENCES, dict))):
        return all(_is_plain(each) for each in arguments)
    return isinstance(tp, type) and issubclass(tp, _PLAIN)


def _is_text(tp: Any) -> bool:
    inner = _inner(tp)
    if inner is not None or get_origin(tp) is Annotated:
        return _is_text(tp.__origin__ if inner is None else inner)
    if _is_union(get_origin(tp)):
        return all(each is types.NoneType or _is_text(each) for each in get_args(tp))
    return isinstance(tp, type) and issubclass(tp, str) and not issubclass(tp, Enum)


def _kinds(tp: Any) -> tuple[type, ...]:
    """Return the types that a value of *tp* may have."""
    origin, arguments, inner = get_origin(tp), get_args(tp), _inner(tp)
    if inner is not None or origin is Annotated:
        return _kinds(tp.__origin__ if inner is None else inner)
    if _is_union(origin):
        return tuple([kind for each in arguments for kind in _kinds(each)])
    if origin is Literal:
        return tuple([type(each) for each in arguments])
    cls = origin or tp
    if not isinstance(cls, type):
        return (object,)
    if _is_typed_dict(cls) or cls in (Mapping, typing.MutableMapping):
        return (dict,)
    # An abstract one may be any of them.
    return SEQUENCES if inspect.isabstract(cls) and issubclass(cls, (Sequence, Set)) else (cls,)


def _overlap(some: Iterable[type], others: Sequence[type]) -> bool:
    return any(issubclass(one, other) or issubclass(other, one) for one in some for other in others)


def _inner(tp: Any) -> Any:
    """Return what an alias or a NewType stands for; None: it is neither."""
    if isinstance(tp, typing.NewType):
        return tp.__supertype__
    origin = get_origin(tp)
    # By name: before Python 3.12 it is of typing_extensions alone.
    alias = next((each for each in (tp, origin) if type(each).__name__ == "TypeAliasType"), None)
    if alias is None:
        return None
    quoted = type(
        alias.__name__, (), {"__module__": alias.__module__, "__annotations__": {"": alias.__value__}}
    )
    value = _read(quoted)[""]
    return value if alias is tp else value[get_args(tp)]


def _is_union(origin: Any) -> bool:
    return origin is typing.Union or origin is types.UnionType


def _is_typed_dict(tp: Any) -> bool:
    return isinstance(tp, type) and issubclass(tp, dict) and hasattr(tp, "__total__")


def _annotations(cls: type) -> dict[str, Any]:
    try:
        return inspect.get_annotations(cls)
    except Exception:  # names that are there for type checkers only
        return {}


def _told(tp: Any) -> str:
    return tp.__name__ if isinstance(tp, type) and not get_args(tp) else str(tp).replace("typing.", "")


def _refuse(where: str, why: str) -> NoReturn:
    raise ConfigurationError(f"{where} has a Link that cannot work: {why}")
