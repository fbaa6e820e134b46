"""From a JSON object to a typed request: refused fields, then pydantic, then one error in OpenAI's words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from console.gateway.errors import ApiError, invalid, unsupported


@dataclass(frozen=True, slots=True)
class UnsupportedField:
    """A wire field of OpenAI's that is not honoured here, and the values of it that ask for nothing."""

    why: str
    harmless: Sequence[Any] = field(default=())

    def admits(self, value: Any) -> bool:
        return any(value == one and type(value) is type(one) for one in self.harmless)


class Strict(BaseModel):
    """A part of a request: no unknown keys, no coercion between types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Wire(Strict):
    """A whole request. `null` means "not given", as OpenAI's clients use it."""

    REFUSED: ClassVar[Mapping[str, UnsupportedField]] = {}

    @classmethod
    def parse(cls, body: Mapping[str, Any]) -> Self:
        """The request in `body`. Raises `ApiError` 400 naming the first field at fault."""
        given = {name: value for name, value in body.items() if value is not None}
        for name, value in body.items():
            if name in cls.REFUSED:
                if value is not None and not cls.REFUSED[name].admits(value):
                    raise unsupported(name, cls.REFUSED[name].why)
                given.pop(name, None)
            elif name not in cls.model_fields:
                shown = name[:64]
                raise invalid(f"Unknown parameter: '{shown}'.", param=shown, code="unknown_parameter")
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise explain(error, given) from None


def explain(error: ValidationError, body: Mapping[str, Any]) -> ApiError:
    """Of pydantic's errors, that of the branch of a union which understood most."""
    found = error.errors(include_url=False)

    def progress(one: ErrorDetails) -> tuple[int, bool, list[int]]:
        path = param_of(one["loc"], body, one["type"])
        positions = [step for step in one["loc"] if isinstance(step, int)]
        return path.count(".") + path.count("["), not one["type"].endswith("_type"), positions

    worst = max(found, key=progress)
    param = param_of(worst["loc"], body, worst["type"])
    match worst["type"]:
        case "missing":
            return invalid(
                f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
            )
        case "extra_forbidden":
            return invalid(f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
        case "unsupported_parameter":
            return invalid(worst["msg"], param=param, code="unsupported_parameter")
        case kind if kind.endswith("_type"):
            return invalid(f"Invalid type for '{param}': {worst['msg']}.", param=param, code="invalid_type")
        case _:
            return invalid(f"Invalid value for '{param}': {worst['msg']}.", param=param)


def param_of(location: Sequence[int | str], body: Any, kind: str) -> str:
    """pydantic's location as a path (`messages[0].content`); names of union branches are left out."""
    path = ""
    here = body
    for position, step in enumerate(location):
        is_last = position == len(location) - 1
        if isinstance(step, int) and isinstance(here, list):
            path += f"[{step}]"
            here = here[step] if step < len(here) else None
        elif isinstance(here, dict) and (step in here or (is_last and kind == "missing")):
            path += f".{step}" if path else str(step)
            here = here.get(step)
    return path[:256]
