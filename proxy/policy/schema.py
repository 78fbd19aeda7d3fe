"""The JSON Schema of a policy file, for editors, from the same annotations that the reader obeys.

It is a little wider than the reader: what needs two places of a file, a time zone database or an environment is checked on loading
only. The same kinds always give the same text, so that a stale copy shows.
"""

import json
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from proxy.policy.contract import Clause
from proxy.policy.reading import Shapes, kind_of, not_empty, shape_of
from proxy.policy.sections import PolicyFile, shapes

_REFERENCE = {"type": "string", "pattern": r"\$\{(env|file):[^}]+\}"}


def schema_text(kinds: tuple[type[Clause], ...]) -> str:
    """The schema as it is kept in `policies/schema.json`."""
    return json.dumps(schema(kinds), indent=2, ensure_ascii=False) + "\n"


def schema(kinds: tuple[type[Clause], ...]) -> dict[str, Any]:
    """JSON Schema, draft 2020-12."""
    writer = _Writer(shapes(kinds))
    root = writer.schema_of(PolicyFile)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tollhouse policy file",
        "$ref": root["$ref"],
        "$defs": {"reference": {"description": "filled in on loading", **_REFERENCE}, **dict(sorted(writer.definitions.items()))},
    }


class _Writer:
    """Collects one definition for each dataclass it meets."""

    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self.definitions: dict[str, Any] = {}

    def schema_of(self, hint: Any) -> dict[str, Any]:
        kind = kind_of(hint)
        if kind is not None:
            return {"anyOf": [{"description": kind.expects, **kind.schema}, {"$ref": "#/$defs/reference"}]}
        if not_empty(hint) is not None:
            return self._filled(self.schema_of(get_args(hint)[0]))
        origin = get_origin(hint)
        if origin in (Union, UnionType):
            return {"anyOf": [self.schema_of(part) for part in get_args(hint)]}
        if origin is tuple:
            return self._list(get_args(hint)[0])
        if origin is not None and issubclass(origin, Mapping):
            key, value = get_args(hint)
            name = kind_of(key)
            assert name is not None, "a mapping's keys are scalars"
            return {"type": "object", "propertyNames": dict(name.schema), "additionalProperties": self.schema_of(value)}
        return self._object(hint)

    @staticmethod
    def _filled(schema: dict[str, Any]) -> dict[str, Any]:
        """The same with at least one entry."""
        if "anyOf" in schema:
            listed, single = schema["anyOf"]
            return {"anyOf": [{**listed, "minItems": 1}, single]}
        return {**schema, ("minProperties" if schema["type"] == "object" else "minItems"): 1}

    def _list(self, hint: Any) -> dict[str, Any]:
        item = self.schema_of(hint)
        if kind_of(hint) is None:
            return {"type": "array", "items": item}
        return {"anyOf": [{"type": "array", "items": item, "uniqueItems": True}, item]}

    def _object(self, cls: type) -> dict[str, Any]:
        reference = {"$ref": f"#/$defs/{cls.__name__}"}
        if cls.__name__ in self.definitions:
            return reference
        definition: dict[str, Any] = {}
        self.definitions[cls.__name__] = definition
        shape = self._shapes.get(cls) or shape_of(cls)
        definition.update(
            description=shape.doc,
            type="object",
            properties={entry.name: {"description": entry.doc, **self.schema_of(entry.hint)} for entry in shape.entries},
            additionalProperties=False,
        )
        if required := [entry.name for entry in shape.entries if entry.required]:
            definition["required"] = required
        if shape.exactly_one:
            definition.update(minProperties=1, maxProperties=1)
        return reference
