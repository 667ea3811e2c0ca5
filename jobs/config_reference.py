"""The reference of all configuration keys, as Markdown, from the models: `python -m jobs.config_reference`."""

import json
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from jobs.config import JobConfig

HEADING = """# Configuration

One YAML file, read by `mmcsal plan`, `run`, `select` and `evaluate`; `--set a.b=c` overrides a key. Unknown keys are
refused. Examples: [jobs/configs](../jobs/configs). This page is written by
`python -m jobs.config_reference > docs/configuration.md`.

| key | type | default | meaning |
|---|---|---|---|
"""


def describe_keys() -> str:
    """Return the page."""
    rows = [f"| `{key}` | {kind} | {default} | {meaning} |" for key, kind, default, meaning in _walk(JobConfig, "")]
    return HEADING + "\n".join(rows) + "\n"


def _walk(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in model.model_fields.items():
        nested, is_mapping = _find_model(field.annotation)
        if nested is None:
            yield f"{prefix}{name}", _name_type(field.annotation), _show_default(field), field.description or ""
        else:
            yield from _walk(nested, f"{prefix}{name}.<name>." if is_mapping else f"{prefix}{name}.")


def _find_model(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is dict and isinstance(arguments[1], type) and issubclass(arguments[1], BaseModel):
        return arguments[1], True
    return None, False


def _name_type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name_type(argument) for argument in arguments if argument is not type(None))
    if origin is tuple:
        return f"list of {_name_type(arguments[0])}"
    if origin is dict:
        return "mapping"
    return str(getattr(annotation, "__name__", annotation))


def _show_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value is PydanticUndefined else f"`{json.dumps(value)}`"


if __name__ == "__main__":
    print(describe_keys(), end="")
