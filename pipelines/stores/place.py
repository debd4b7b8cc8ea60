"""The place of one index in one store, and its options: the argument of an adapter.

An adapter declares its `index.options` as a pydantic model, a subclass of `Options` whose fields have a type and a
description. A store without options takes `Options` itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from transformations.errors import ConfigurationError

PositiveSeconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Options(BaseModel):
    """The options of a store; a value may be given as text or as the type of its field."""

    model_config = ConfigDict(frozen=True, extra="forbid")


_Parsed = TypeVar("_Parsed", bound=Options)


@dataclass(frozen=True)
class Place:
    """One index of one store.

    Attributes:
        uri: a folder, or the address of a server.
        secret: the server's password or token.
        storage: options of the client of object storage, where `uri` is an address of that.
        options: an instance of the adapter's own model; None: its defaults.
    """

    uri: str
    name: str
    dimension: int
    secret: str | None = field(default=None, repr=False)
    options: Options | None = None
    storage: Mapping[str, str] | None = field(default=None, repr=False)

    def parsed(self, model: type[_Parsed]) -> _Parsed:
        """The options as an instance of `model`, the adapter's own."""
        options = model() if self.options is None else self.options
        assert isinstance(options, model), f"{options!r} are not {model.__name__}"
        return options


def parse_options(store: str, given: Mapping[str, Any], *, model: type[Options]) -> Options:
    """`given` as an instance of `model`.

    Raises:
        ConfigurationError: an option is unknown or wrong; the text names store, option, value and what is allowed.
    """
    for name in given:
        if name not in model.model_fields:
            raise ConfigurationError.unknown_name(f"option of {store}", name, model.model_fields)
    try:
        return model.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        option = model.model_fields[name]
        raise ConfigurationError(
            f"index.options.{name} of {store} is {given[name]!r}: {_lowered(first['msg'])}. It says "
            f"{option.description} (default: {option.default!r}). Mend it, or leave it out."
        ) from None


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
