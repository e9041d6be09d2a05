"""
The settings that environment variables make.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .errors import ConfigurationError
from .origins import Origin
from .policy import Policy

__all__ = ["settings"]

_POLICY = {f"PRESIGN_{f.name.upper()}": f.name for f in fields(Policy)}
_WHOLE = {"lifetime", "local_size"}


def settings(variables: Mapping[str, str]) -> tuple[list[Origin], Policy, dict[str, Any]]:
    """
    Return the origins, the policy and the further options that *variables* describe.

    Raises:
        ConfigurationError: ``PRESIGN_ORIGINS`` is absent, a name is unknown, or a value
            is not of its kind.
    """
    known = {"PRESIGN_ORIGINS", "PRESIGN_LOCAL_SIZE", *_POLICY}
    unknown = {name for name in variables if name.startswith("PRESIGN_")} - known
    if unknown:
        raise ConfigurationError(f"{min(unknown)} is not a setting; known are {', '.join(sorted(known))}")
    origins = variables.get("PRESIGN_ORIGINS", "").split()
    if not origins:
        raise ConfigurationError(
            "there is no presigner: give presigner=Presigner(...), or set PRESIGN_ORIGINS to one or more of "
            '"name=s3://bucket/prefix/?region=eu-west-1", parted by spaces'
        )
    policy: dict[str, Any] = {
        field: _number(name, variables[name]) if field != "on_error" else variables[name]
        for name, field in _POLICY.items()
        if name in variables
    }
    options: dict[str, Any] = {}
    if "PRESIGN_LOCAL_SIZE" in variables:
        options["local_size"] = _number("PRESIGN_LOCAL_SIZE", variables["PRESIGN_LOCAL_SIZE"])
    return [Origin.parse(text) for text in origins], Policy(**policy), options


def _number(name: str, text: str) -> int | float:
    try:
        return int(text) if name.removeprefix("PRESIGN_").lower() in _WHOLE else float(text)
    except ValueError:
        kind = "whole number" if name.removeprefix("PRESIGN_").lower() in _WHOLE else "number"
        raise ConfigurationError(f"{name} must be a {kind}, got {text!r}") from None
