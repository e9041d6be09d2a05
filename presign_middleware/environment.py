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
_OPTIONS = {
    f"PRESIGN_{name.upper()}": name for name in ("shared", "namespace", "secret", "local_size", "rollout")
}
_ROLLOUT_FILE = "PRESIGN_ROLLOUT_FILE"
_WHOLE = {"lifetime", "local_size", "refresh_limit"}
_TEXT = {"on_error", "shared_reads", "shared", "namespace"}


def settings(variables: Mapping[str, str]) -> tuple[list[Origin], Policy, dict[str, Any]]:
    """
    Return the origins, the policy and the further options that *variables* describe.

    Raises:
        ConfigurationError: ``PRESIGN_ORIGINS`` is absent, a name is unknown, or a value
            is not of its kind.
    """
    # The dashboard's is any presigner's, however it was made.
    known = {"PRESIGN_ORIGINS", "PRESIGN_DASHBOARD", _ROLLOUT_FILE, *_OPTIONS, *_POLICY}
    unknown = {name for name in variables if name.startswith("PRESIGN_")} - known
    if unknown:
        raise ConfigurationError(f"{min(unknown)} is not a setting; known are {', '.join(sorted(known))}")
    origins = variables.get("PRESIGN_ORIGINS", "").split()
    if not origins:
        raise ConfigurationError(
            "there is no presigner: give presigner=Presigner(...), or set PRESIGN_ORIGINS to one or more of "
            '"name=s3://bucket/prefix/?region=eu-west-1", parted by spaces'
        )
    policy = {field: _value(name, variables[name]) for name, field in _POLICY.items() if name in variables}
    options = {field: _value(name, variables[name]) for name, field in _OPTIONS.items() if name in variables}
    if _ROLLOUT_FILE in variables:
        if "rollout" in options:
            raise ConfigurationError(f"either PRESIGN_ROLLOUT or {_ROLLOUT_FILE} can be set, got both")
        from pathlib import Path

        options["rollout"] = Path(variables[_ROLLOUT_FILE])
    return [Origin.parse(text) for text in origins], Policy(**policy), options


def _value(name: str, text: str) -> Any:
    setting = name.removeprefix("PRESIGN_").lower()
    if setting == "secret":
        return text.split()  # which shows up in no message, unlike the others
    if setting in _TEXT:
        return text
    try:
        return int(text) if setting in _WHOLE else float(text)
    except ValueError:
        kind = "whole number" if setting in _WHOLE else "number"
        raise ConfigurationError(f"{name} must be a {kind}, got {text!r}") from None
