"""The schema for editors follows from the code, and what is shipped is what the code says today."""

import json
from collections.abc import Iterator
from typing import Any

from policies import KINDS
from proxy.policy.schema import schema, schema_text
from tests.proxy.policy.files import ROOT


def test_the_shipped_schema_is_fresh() -> None:
    assert (ROOT / "policies" / "schema.json").read_text(encoding="utf-8") == schema_text(KINDS), "run `make schema`"


def test_the_same_code_gives_the_same_text() -> None:
    assert schema_text(KINDS) == schema_text(KINDS)
    assert json.loads(schema_text(KINDS)) == schema(KINDS)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "properties" in value:
            yield value
        for child in value.values():
            yield from objects(child)
    elif isinstance(value, list):
        for child in value:
            yield from objects(child)


def test_every_mapping_is_closed_and_every_word_described() -> None:
    found = list(objects(schema(KINDS)))
    assert len(found) > 20
    for value in found:
        assert value["additionalProperties"] is False
        assert value["description"]
        for name, entry in value["properties"].items():
            assert entry.get("description"), name


def test_every_kind_of_clause_is_a_word_of_a_policy() -> None:
    words = schema(KINDS)["$defs"]["PolicyEntry"]["properties"]
    assert {kind.clause for kind in KINDS} < set(words)
    assert set(words) - {kind.clause for kind in KINDS} == {"name", "match", "mode"}


def test_every_reference_leads_somewhere() -> None:
    text = schema_text(KINDS)
    definitions = schema(KINDS)["$defs"]
    for reference in {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}:
        assert reference in definitions
