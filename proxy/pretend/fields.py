"""Reading the fields of a request body, and the error in OpenAI's form for one that is wrong."""

from collections.abc import Mapping
from typing import Any

import orjson

Fields = Mapping[str, Any]

# All of them stand in the shipped price table, so that a call to the pretend upstream has a price.
MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o-mini", "text-embedding-3-small", "omni-moderation-latest")


class Wrong(Exception):
    """An error answer: its status and its body."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def parse(body: bytes) -> Fields:
    """The fields of a JSON body. Errors: Wrong, as everywhere here."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        raise Wrong(400, "We could not parse the JSON body of your request.") from exc
    if not isinstance(fields, dict):
        raise Wrong(400, "The JSON body of your request is not an object.")
    return fields


def model(fields: Fields, *, default: str | None = None) -> str:
    name = fields.get("model", default)
    if not isinstance(name, str):
        raise Wrong(400, "You must provide a model parameter.", param="model")
    if name not in MODELS:
        raise Wrong(
            404, f"The model `{name}` does not exist or you do not have access to it.", param="model", code="model_not_found"
        )
    return name


def flag(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise Wrong(400, f"Invalid type for '{name}': expected a boolean.", param=name, code="invalid_type")
    return bool(value)


def number(fields: Fields, name: str, *, least: int, most: int | None = None) -> int | None:
    """A whole number within its bounds, None where it is absent or null."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        raise Wrong(400, f"Invalid type for '{name}': expected an integer.", param=name, code="invalid_type")
    if value < least or (most is not None and value > most):
        bound = f">= {least}" if most is None else f"between {least} and {most}"
        raise Wrong(400, f"Invalid '{name}': expected a value {bound}, but got {value}.", param=name, code="invalid_value")
    return value


def required(fields: Fields, name: str, *types: type) -> Any:
    """A field that must be there, of one of these types and not empty."""
    value = fields.get(name)
    if not isinstance(value, types) or not value:
        raise Wrong(400, f"Missing or empty required parameter: '{name}'.", param=name, code="missing_required_parameter")
    return value


def inputs(given: Any) -> list[Any]:
    """The single inputs of `input` or `prompt`: a string or a list of token ids is one, a list of these is several."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


def count_tokens(*values: object) -> int:
    """Words of all texts in messages, input items and prompts, however nested; a token id is one."""
    tokens, rest = 0, list(values)
    while rest:
        match rest.pop():
            case str(text):
                tokens += len(text.split())
            case int():
                tokens += 1
            case list(items):
                rest += items
            case dict(item):
                rest += (item.get("content"), item.get("text"))
    return tokens
