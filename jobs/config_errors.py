"""Why a configuration was refused, in words that name the key and the value, but no value that may be a secret.

Secrets stand in storage options and in Ray's environment, or where somebody put them by mistake: a text in place of a
section, a mapping in place of a URL. Of sections, and of all that is no single value, the type is told.
"""

import difflib
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mmcsal_core.credentials import mask_credentials

_SECRET_KEYS = (("source_options",), ("output_options",), ("ray", "runtime_env"))
"""Sections that may hold secrets at any depth."""

_SECTION_TYPES = ("model_type", "dict_type")
"""What pydantic calls the error where a mapping is expected."""

Location = Sequence[int | str]


def explain_invalid(error: ValidationError, origin: str, model: type[BaseModel]) -> str:
    """Say what is wrong with values that `model` has refused."""
    lines = [_explain_one(problem, model) for problem in error.errors()]
    return f"{origin}: " + "; ".join(lines)


def explain_yaml(error: Exception) -> str:
    """Say why and where a text is no YAML, without the lines and names of it that the parser quotes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())  # about one character
    problem = re.sub(r"'[^']{2,}'", "a name", error.problem or "")
    return f"{problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"


def name_override(override: str, model: type[BaseModel]) -> str:
    """Return what of an `a.b=c` that lacks a part is a key for certain."""
    key, separator, _ = override.partition("=")
    if separator:
        return repr(key)
    parts = key.split(".")
    if parts[0] in model.model_fields and not _may_hold_secrets(parts):
        return repr(re.split(r"[^\w.]", key)[0])
    return "a text that is not shown, since it may hold a secret"


def _explain_one(problem: Mapping[str, Any], model: type[BaseModel]) -> str:
    location, message = problem["loc"], problem["msg"].removeprefix("Value error, ")
    key = ".".join(str(part) for part in location) or "configuration"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{_suggest(location, model)}"
    if problem["type"] == "missing":
        return f"key {key!r} is required; add it"
    if problem["type"] == "value_error":
        return f"{key}: {message}"
    value, is_section = problem["input"], problem["type"] in _SECTION_TYPES
    if is_section or isinstance(value, Mapping | list):
        return f"{key}: {message}, got a {type(value).__name__}, not shown since it may hold a secret"
    return f"{key}: {message}, got {mask_credentials(repr(value))}"


def _may_hold_secrets(location: Location) -> bool:
    """Say whether a place lies in a section with secrets, or above one."""
    return any(all(ours == theirs for ours, theirs in zip(location, keys, strict=False)) for keys in _SECRET_KEYS)


def _suggest(location: Location, model: type[BaseModel]) -> str:
    known = sorted(_list_known_keys(location[:-1], model))
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known keys are {', '.join(known)}"


def _list_known_keys(location: Location, model: Any) -> list[str]:
    for part in location:
        if isinstance(model, type) and issubclass(model, BaseModel):
            model = model.model_fields[str(part)].annotation
        else:
            model = typing.get_args(model)[-1]
    return list(model.model_fields)
