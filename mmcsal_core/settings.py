"""The base of every configuration: frozen, unknown keys refused, values never coerced between types."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen configuration. Behaviour only: an argument names the data, a `Settings` says what to do with it."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        hide_input_in_errors=True,  # which may be a secret, in the traceback of whoever does not catch the error
    )
