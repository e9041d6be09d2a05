"""
Links that are named by paths, in dicts and lists.

A path is of `JMESPath <https://jmespath.org>`_, the notation of ``aws --query``, as much of it
as names places: ``cover``, ``photos[*].thumbnail``, ``"a name".*.url``.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import ConfigurationError
from .marks import Link
from .shapes import Either, Items, Leaf, Names, Node

__all__ = ["Path", "named"]

#: A path, or some with what their links are like.
Path = str | Mapping[str, Link]

_STEP = re.compile(
    r'(?P<dot>\.?)(?:(?P<name>[A-Za-z_]\w*|\*)|(?P<quoted>"(?:[^"\\]|\\.)+"))|\[\*\]', re.ASCII
).match

#: Steps that are no names.
_EACH_ITEM, _EACH_VALUE = object(), object()

_Tree = dict[Any, Any]  #: from a step to the tree of what follows, or to a Link

_TARGET = Link()


def named(paths: tuple[Path, ...]) -> Node:
    """
    Return the node of a value whose links are at *paths*.

    Raises:
        ConfigurationError: A path that cannot be read, or two that contradict each other.
    """
    pairs: list[tuple[str, Link]] = []
    for path in paths:
        if not isinstance(path, (str, Mapping)):
            raise ConfigurationError(f'a path is text such as "photos[*].url", got {type(path).__name__}')
        pairs += [(path, _TARGET)] if isinstance(path, str) else path.items()
    return _node_of(tuple(pairs))


@lru_cache(256)
def _node_of(pairs: tuple[tuple[str, Link], ...]) -> Node:
    tree: _Tree = {}
    for path, link in pairs:
        if not isinstance(link, Link):
            raise ConfigurationError(f"path {path!r} must lead to a Link, got {type(link).__name__}")
        branch: Any = link
        for step in reversed(_steps(path)):
            branch = {step: branch}
        tree = _merged(tree, branch, path)
    return _node(tree)


def _steps(path: str) -> list[Any]:
    steps: list[Any] = []
    at = 0
    while at < len(path):
        found = _STEP(path, at)
        # A dot stands between a name and whatever is before it.
        if not found or (found["dot"] is not None and bool(found["dot"]) != bool(steps)):
            break
        at = found.end()
        if found["name"] == "*":
            steps.append(_EACH_VALUE)
        elif found["quoted"]:
            steps.append(json.loads(found["quoted"]))
        else:
            steps.append(found["name"] or _EACH_ITEM)
    if not steps or at < len(path):
        raise ConfigurationError(
            f'path {path!r} cannot be read: wanted names such as "cover", "photos[*].url" (each item of a '
            """list), "by_id.*.url" (each value of a dict), '"a name".url' (quoted)"""
        )
    return steps


def _merged(one: Any, other: Any, path: str) -> Any:
    """Return the tree of what both lead to."""
    if isinstance(one, Link) or isinstance(other, Link):
        if one != other:
            raise ConfigurationError(f"path {path!r} contradicts another: a place is one link, or holds some")
        return one
    return one | {
        step: _merged(one[step], branch, path) if step in one else branch for step, branch in other.items()
    }


def _node(tree: Any) -> Node:
    if isinstance(tree, Link):
        return Leaf(tree)
    items, others = tree.get(_EACH_ITEM), tree.get(_EACH_VALUE)
    names = {step: branch for step, branch in tree.items() if isinstance(step, str)}
    if others is not None:
        names = {step: _merged(others, branch, step) for step, branch in names.items()}
    as_dict = Names({step: _node(branch) for step, branch in names.items()}, others and _node(others))
    if items is None:
        return as_dict
    as_list = Items(_node(items), (list, tuple))
    return Either([((dict,), as_dict)], as_list) if len(tree) > 1 else as_list
