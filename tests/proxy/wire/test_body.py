"""A body is refused when it cannot be right, and is changed in no byte but those of the fields that a policy set."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.call import Call, Surface
from proxy.errors import InvalidCall
from proxy.wire.body import MOST_CAP, ask_for_usage, check, parse, patched, shape
from proxy.wire.surfaces import SURFACES

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure

BY_NAME: dict[str, Surface] = {surface.name: surface for surface in SURFACES}
SOUND: dict[str, dict[str, Any]] = {
    "chat": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "completions": {"model": "m", "prompt": "hi"},
    "responses": {"model": "m", "input": "hi"},
    "embeddings": {"model": "m", "input": "hi"},
    "moderations": {"input": "hi"},
}


def refusal(body: bytes) -> InvalidCall:
    with pytest.raises(InvalidCall) as caught:
        parse(body)
    assert (caught.value.status, caught.value.detail) == (400, None)
    return caught.value


def call(fields: dict[str, Any] | bytes, *, surface: str = "chat", **edits: Any) -> Call:
    body = fields if isinstance(fields, bytes) else orjson.dumps(fields)
    return Call(id="r", method="POST", surface=BY_NAME[surface], body=body, fields=parse(body), edits=edits)


# ---- parse ----


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"{", id="half"),
        pytest.param(b"{} {}", id="two"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'"{}"', id="string"),
        pytest.param(b"1", id="number"),
        pytest.param(b"null", id="null"),
        pytest.param(b"true", id="true"),
        pytest.param(b'{"n": NaN}', id="NaN"),
        pytest.param(b'{"n": Infinity}', id="Infinity"),
        pytest.param(b'{"n": 1e999}', id="too large a number"),
        pytest.param(b'{"n": 01}', id="leading zero"),
        pytest.param(b'{"n": +1}', id="plus sign"),
        pytest.param(b'{"n": 0x10}', id="hexadecimal"),
        pytest.param(b'{"n": 1_0}', id="underscore"),
        pytest.param(b"{'n': 1}", id="single quotes"),
        pytest.param(b"{n: 1}", id="no quotes"),
        pytest.param(b'{"n": 1,}', id="trailing comma"),
        pytest.param(b'{"n": 1} // note', id="comment"),
        pytest.param(b'{"a": "\n"}', id="bare newline in a string"),
        pytest.param(b'{"a": "\0"}', id="bare NUL in a string"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param('{"n": 1}'.encode("utf-16"), id="UTF-16"),
        pytest.param('{"n": 1}'.encode("utf-16-le"), id="UTF-16 without a mark"),
        pytest.param('{"n": 1}'.encode("utf-32"), id="UTF-32"),
        pytest.param(b'{"a": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"a": "\xc0\xaf"}', id="overlong UTF-8"),
        pytest.param(b'{"a": "\xed\xa0\x80"}', id="encoded surrogate"),
        pytest.param(b'{"a": "\xf0\x9f\x91"}', id="cut UTF-8"),
        pytest.param(b'{"a": "\\ud83d"}', id="lone surrogate"),
        pytest.param(b'{"\\udc00": 1}', id="lone surrogate in a name"),
        pytest.param(b'{"a": "\\x41"}', id="unknown escape"),
    ],
)
def test_what_is_no_json_object_in_utf8_is_refused(body: bytes) -> None:
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize("levels", [1000, 1024, 1025, 100_000])
@pytest.mark.parametrize(("opening", "inner", "closing"), [(b"[", b"", b"]"), (b'{"a":', b"1", b"}"), (b'[{"a":', b"1", b"}]")])
def test_deep_nesting_is_refused_whatever_nests(levels: int, opening: bytes, inner: bytes, closing: bytes) -> None:
    assert refusal(b'{"x":' + opening * levels + inner + closing * levels + b"}").code == "nested_too_deeply"


def test_nesting_that_schemas_need_passes() -> None:
    body = b'{"x":' + b'{"a":[' * 100 + b"1" + b"]}" * 100 + b"}"
    assert parse(body) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"n":1,"n":128}', "n"),
        (b'{"n":1,"n":1}', "n"),
        (b'{"n": 1, "a": {"n": 2}, "n": 3}', "n"),
        (b'{"n":1,"\\u006e":128}', "n"),
        (b'{"\\u006e":1,"\\u006E":128}', "n"),
        (b'{"max_tokens":1,"max\\u005ftokens":9}', "max_tokens"),
        (b'{"model":"a","messages":[],"model":"b"}', "model"),
        (b'{"messages":[],"a":[{"messages":1}],"messages":[]}', "messages"),
        (b'{"stream":false,\n\t"stream" :\r true}', "stream"),
        (b'{"stream_options":{},"stream_options":{"include_usage":true}}', "stream_options"),
        (b'{"tools":[],"tools":[{"type":"web_search"}]}', "tools"),
        (b'{"previous_response_id":null,"previous_response_id":"resp_1"}', "previous_response_id"),
        ('{"é":1,"\\u00e9":2}'.encode(), "é"),
        (b'{"":1,"":2}', ""),
    ],
)
def test_a_field_that_stands_twice_is_refused_by_name(body: bytes, field: str) -> None:
    error = refusal(body)
    assert (error.code, error.param) == ("duplicate_field", field)


@pytest.mark.parametrize(
    "body",
    [
        b'{"n":1,"a":{"n":2,"n":3}}',
        b'{"n":1,"a":[{"n":2},{"n":3}],"b":"n"}',
        b'{"a":"\\"n\\":1,\\"n\\":2","n":1}',
        b'{"a":"{\\"n\\":1}","b":"\\\\","n":1}',
        b'{"model":"model","messages":[{"role":"user","content":"\\"model\\": \\"x\\""}],"tools":[{"model":1}]}',
        b'{"n":"n","N":1,"n ":2," n":3,"\\u006e\\u006e":4}',
        b'{"messages":["messages","messages"],"x":{"messages":{"messages":[]}}}',
        b' \t\r\n{ "n" : 1 , "a" : [ "n" , "n" ] } \n',
        b'{"a":12345678901234567890123,"b":1.0,"c":1E5,"d":-0}',
        b'{ "role":"role","a":{"role":1},"b":"\\\\u0062" }',
    ],
)
def test_look_alikes_of_a_field_that_stands_twice_are_not_refused(body: bytes) -> None:
    assert parse(body) == orjson.loads(body)


# ---- check ----

WRONG: dict[str, tuple[list[Any], list[Any]]] = {
    # field: values of a wrong type, values out of range
    "n": ([True, 1.0, "1", [], {}, 10**20], [0, -1, 129, MOST_CAP]),
    "best_of": ([False, 2.5, "2", []], [-1, 21]),
    "max_tokens": ([True, 16.0, 1e30, "16", [16], {}, 10**30], [-1, MOST_CAP + 1, 2**63 - 1]),
    "max_completion_tokens": ([False, 16.5, "none", [], 2**64], [-1, MOST_CAP + 1]),
    "max_output_tokens": ([True, 1e3, "16", {}], [-16, MOST_CAP + 1]),
    "stream": ([0, 1, "true", [], {}, 1.0], []),
    "background": ([0, 1, "true", []], []),
    "stream_options": ([True, 1, "x", []], []),
    "model": ([7, True, [], {}, "", "x" * 257, "a\nb", "a\0", "a\u2028b", "a\u200bb", "a\x7f"], []),
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (values, _) in WRONG.items() for v in values], ids=repr)
def test_a_field_that_costs_must_have_its_type(field: str, value: Any) -> None:
    with pytest.raises(InvalidCall) as caught:
        check(BY_NAME["chat"], parse(json.dumps({**SOUND["chat"], field: value}).encode()))
    assert (caught.value.code, caught.value.param) == ("invalid_type", field)


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, (_, values) in WRONG.items() for v in values], ids=repr)
def test_a_number_that_costs_must_be_in_range(field: str, value: Any) -> None:
    with pytest.raises(InvalidCall) as caught:
        check(BY_NAME["completions"], parse(json.dumps({**SOUND["completions"], field: value}).encode()))
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)


@pytest.mark.parametrize(
    ("surface", "field", "value"),
    [
        ("chat", "messages", "hi"),
        ("chat", "messages", {}),
        ("chat", "messages", 7),
        ("completions", "prompt", 7),
        ("completions", "prompt", {}),
        ("responses", "input", 7),
        ("responses", "input", {"text": "hi"}),
        ("embeddings", "input", True),
        ("embeddings", "input", {}),
        ("moderations", "input", 1.5),
    ],
)
def test_what_is_counted_as_input_must_have_its_type(surface: str, field: str, value: Any) -> None:
    with pytest.raises(InvalidCall) as caught:
        check(BY_NAME[surface], {**SOUND[surface], field: value})
    assert (caught.value.code, caught.value.param) == ("invalid_type", field)


NEEDED = {"chat": ["model", "messages"], "completions": ["model"], "embeddings": ["model", "input"], "moderations": ["input"]}


@pytest.mark.parametrize(("surface", "field"), [(surface, field) for surface, fields in NEEDED.items() for field in fields])
@pytest.mark.parametrize("null", [False, True], ids=["absent", "null"])
def test_what_a_call_needs_must_be_there(surface: str, field: str, null: bool) -> None:
    fields = {**SOUND[surface], field: None}
    with pytest.raises(InvalidCall) as caught:
        check(BY_NAME[surface], fields if null else {k: v for k, v in fields.items() if k != field})
    assert (caught.value.code, caught.value.param) == ("missing_field", field)


@pytest.mark.parametrize("surface", ["chat", "completions", "responses"])
@pytest.mark.parametrize(("field", "instead"), [("n_predict", "max_tokens"), ("n_cmpl", "n")])
def test_a_cap_in_a_spelling_that_only_some_servers_heed_is_refused(surface: str, field: str, instead: str) -> None:
    with pytest.raises(InvalidCall) as caught:
        check(BY_NAME[surface], {**SOUND[surface], instead: 1, field: 7})
    assert (caught.value.code, caught.value.param) == ("invalid_value", field)
    assert instead in caught.value.message
    check(BY_NAME[surface], {**SOUND[surface], field: None})


@pytest.mark.parametrize(
    ("surface", "more"),
    [
        ("chat", {}),
        ("chat", {"messages": []}),
        ("chat", {"n": 1, "max_tokens": 0, "max_completion_tokens": MOST_CAP, "stream": True, "stream_options": {}}),
        ("chat", dict.fromkeys(("n", "max_tokens", "max_completion_tokens", "stream", "stream_options", "background"))),
        ("chat", {"model": "ft:gpt-4.1-mini:acme::Ab12", "n": 128}),
        ("chat", {"model": "модель 模型"}),
        ("completions", {"prompt": [[1, 2], [3]], "n": 2, "best_of": 20}),
        ("completions", {"prompt": None, "best_of": 0}),
        ("responses", {"input": None, "model": None, "max_output_tokens": 1, "background": True}),
        ("responses", {"input": []}),
        ("embeddings", {"input": [1, 2, 3]}),
        ("moderations", {"model": "omni-moderation-latest"}),
    ],
)
def test_sound_calls_pass(surface: str, more: dict[str, Any]) -> None:
    check(BY_NAME[surface], {**SOUND[surface], **more})


# ---- shape ----


@pytest.mark.parametrize(
    ("surface", "fields", "caps", "cap", "choices"),
    [
        ("chat", {}, {}, None, 1),
        ("chat", {"max_tokens": 7}, {"max_tokens": 7}, 7, 1),
        ("chat", {"max_tokens": 0}, {"max_tokens": 0}, 0, 1),
        ("chat", {"max_tokens": None, "n": None}, {}, None, 1),
        ("chat", {"max_tokens": 7, "max_completion_tokens": 9, "n": 3}, {"max_tokens": 7, "max_completion_tokens": 9}, 9, 3),
        ("chat", {"max_output_tokens": 7, "best_of": 20}, {}, None, 1),
        ("completions", {}, {}, 16, 1),
        ("completions", {"max_tokens": 100, "n": 2, "best_of": 5}, {"max_tokens": 100}, 100, 5),
        ("completions", {"n": 5, "best_of": 0}, {}, 16, 5),
        ("completions", {"prompt": ["a", "b", "c"], "n": 2}, {}, 16, 6),
        ("completions", {"prompt": [[1, 2], [3]]}, {}, 16, 2),
        ("completions", {"prompt": [1, 2, 3]}, {}, 16, 1),
        ("completions", {"prompt": [1, "b", "c"]}, {}, 16, 3),
        ("completions", {"prompt": [{"prompt_string": "a"}, {"prompt_string": "b"}]}, {}, 16, 2),
        ("completions", {"prompt": []}, {}, 16, 1),
        ("completions", {"prompt": None}, {}, 16, 1),
        ("responses", {"max_output_tokens": 20, "n": 5}, {"max_output_tokens": 20}, 20, 1),
        ("responses", {"prompt": {"id": "pmpt_1"}}, {}, None, 1),
        ("embeddings", {"input": ["a", "b"]}, {}, None, 1),
    ],
)
def test_the_cost_facts_of_a_body(
    surface: str, fields: dict[str, Any], caps: dict[str, int], cap: int | None, choices: int
) -> None:
    shaped = call({**SOUND[surface], **fields}, surface=surface)
    shape(shaped)
    assert (shaped.asked_caps, shaped.cap, shaped.choices) == (caps, cap, choices)
    assert (shaped.model, shaped.model_asked) == (SOUND[surface].get("model"),) * 2


@pytest.mark.parametrize(
    ("surface", "stream", "expected"),
    [("chat", True, True), ("chat", False, False), ("chat", None, False), ("responses", True, True), ("embeddings", True, False)],
)
def test_a_call_streams_where_its_surface_can(surface: str, stream: bool | None, expected: bool) -> None:
    shaped = call({**SOUND[surface], "stream": stream}, surface=surface)
    shape(shaped)
    assert shaped.stream is expected


@pytest.mark.parametrize(
    ("surface", "fields", "edit"),
    [
        ("chat", {"stream": True}, {"include_usage": True}),
        ("chat", {"stream": True, "stream_options": None}, {"include_usage": True}),
        ("chat", {"stream": True, "stream_options": {"include_usage": False, "x": 1}}, {"include_usage": True, "x": 1}),
        ("chat", {"stream": True, "stream_options": {"include_usage": 1}}, {"include_usage": True}),
        ("completions", {"stream": True}, {"include_usage": True}),
        ("chat", {"stream": True, "stream_options": {"include_usage": True}}, None),
        ("chat", {"stream": False}, None),
        ("chat", {}, None),
        ("responses", {"stream": True}, None),
        ("embeddings", {"stream": True}, None),
    ],
)
def test_usage_is_asked_for_where_a_stream_would_not_tell(
    surface: str, fields: dict[str, Any], edit: dict[str, Any] | None
) -> None:
    shaped = call({**SOUND[surface], **fields}, surface=surface)
    shape(shaped)
    ask_for_usage(shaped)
    assert shaped.edits == ({} if edit is None else {"stream_options": edit})


# ---- patched ----


@pytest.mark.parametrize(
    ("body", "edits", "expected"),
    [
        (b"{}", {"n": 1}, b'{"n":1}'),
        (b" { } ", {"n": 1}, b' {"n":1 } '),
        (b'{"a":1}', {"n": 1}, b'{"n":1,"a":1}'),
        (b'{"a":1}', {"n": 1, "m": None}, b'{"n":1,"m":null,"a":1}'),
        (b'{"n":5}', {"n": 1}, b'{"n":1}'),
        (b'{ "n" : 5 , "a" : 1.0 }\n', {"n": 1}, b'{ "n" : 1 , "a" : 1.0 }\n'),
        (b'{"a":{"n":2},"n":[{"n":3}],"b":"n"}', {"n": 1}, b'{"a":{"n":2},"n":1,"b":"n"}'),
        (b'{"\\u006e":5}', {"n": 1}, b'{"\\u006e":1}'),
        (b'{"a":"\\"n\\":5","n":5}', {"n": 1}, b'{"a":"\\"n\\":5","n":1}'),
        (b'{"n":1.00,"model":"m"}', {"n": 1}, b'{"n":1,"model":"m"}'),
        (b'{"n":1.00}', {"n": 1}, b'{"n":1}'),
        (b'{"a":[[{"b":"\\""}]],"n":5,"c":{"n":[5]}}', {"n": 1}, b'{"a":[[{"b":"\\""}]],"n":1,"c":{"n":[5]}}'),
        (b'{"x":123456789012345678901234567890,"n":5,"y":1E5}', {"n": 1}, b'{"x":123456789012345678901234567890,"n":1,"y":1E5}'),
        (b'{"n":null,"m":"old","z":[ ]}', {"m": "é", "n": {"k": True}}, '{"n":{"k":true},"m":"é","z":[ ]}'.encode()),
        ('{"t":"日本 👋","n":5}'.encode(), {"n": 1}, '{"t":"日本 👋","n":1}'.encode()),
    ],
)
def test_a_changed_body_differs_in_the_changed_fields_only(body: bytes, edits: dict[str, Any], expected: bytes) -> None:
    assert b"".join(patched(call(body, **edits))) == expected


def test_a_body_that_no_policy_changed_is_the_same_bytes() -> None:
    body = b'\n{ "model":"m" ,\t"x": 1.000, "y": 1E5, "z": 99999999999999999999, "s": "\\u00e9\\/" }\r\n'
    asked = call(body)
    assert patched(asked) == (asked.body,)


SPACE = st.sampled_from([b"", b" ", b"\n", b"\t ", b"\r\n  "])
FIELDS = ["model", "n", "max_tokens", "stream_options"]
NAMES = st.sampled_from([*FIELDS, "a", "é", 'qu"ote', "back\\slash", "{", "n:", ""]) | st.text(max_size=4)
TEXTS = NAMES | st.sampled_from(['"n":1', '{"n": 1}', "\\", "\u2028", "\x7f", "👋🏽"])


def written(text: str, escapes: int) -> bytes:
    """A JSON string in one of the ways it can be written."""
    if escapes == 0:
        return json.dumps(text, ensure_ascii=False).encode()
    if escapes == 1:
        return json.dumps(text).encode().replace(b"/", b"\\/")
    units = text.encode("utf-16-be")
    return b'"' + b"".join(b"\\u%04X" % int.from_bytes(units[at : at + 2]) for at in range(0, len(units), 2)) + b'"'


STRINGS = st.builds(written, TEXTS, st.integers(0, 2))
NUMBERS = st.sampled_from([b"0", b"-0", b"1.0", b"1E5", b"1e-5", b"-1.50", b"18446744073709551616", b"9" * 40, b"0.1000"])
SCALARS = STRINGS | NUMBERS | st.sampled_from([b"true", b"false", b"null"])


def listed(items: list[bytes], space: bytes) -> bytes:
    return b"[" + space + (space + b"," + space).join(items) + space + b"]"


def object_of(members: list[tuple[str, int, bytes]], space: bytes) -> bytes:
    pairs = [written(name, escapes) + space + b":" + space + value for name, escapes, value in members]
    return b"{" + space + (space + b"," + space).join(pairs) + space + b"}"


def members_of(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[tuple[str, int, bytes]]]:
    return st.lists(st.tuples(NAMES, st.integers(0, 2), values), max_size=6, unique_by=lambda member: member[0])


VALUES = st.recursive(
    SCALARS,
    lambda inner: st.builds(listed, st.lists(inner, max_size=3), SPACE) | st.builds(object_of, members_of(inner), SPACE),
    max_leaves=6,
)
EDITS = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from([7, "gpt-é", None, {"include_usage": True}, [1]]), max_size=4)


# What makes a body large, so that it is read around this value: texts, and lists of texts, with all that could be taken for an end.
WORDS = 'he said "n": 1}],"model":"x", and went. ' * 300
LARGE = st.sampled_from(
    [
        b'"' + b"word " * 2000 + b'"',
        json.dumps(WORDS).encode(),
        json.dumps([{"role": "user", "content": WORDS}, {"role": "user", "content": '"}],"n":3}'}]).encode(),
        json.dumps([{"role": "user", "content": WORDS, "n": 1}] * 2, separators=(",", ":")).encode(),
        json.dumps([{"content": [{"type": "text", "text": "é日" * 2000}]}, {"content": "n"}], ensure_ascii=False).encode(),
        json.dumps([{"content": "é日" * 2000}], indent=2).encode(),
        json.dumps([WORDS, "model"]).encode(),
        json.dumps({"n": 1, "content": [WORDS]}).encode(),
        b'[1,"' + b"word " * 2000 + b'",{"model":[[],{}]}]',
    ]
)
LARGE_BODIES = st.builds(
    lambda members, large, at: [*members[:at], ("messages", 0, large), *members[at:]],
    st.lists(st.tuples(NAMES, st.integers(0, 2), VALUES), max_size=5),
    LARGE,
    st.integers(0, 5),
)


def names_at_the_top(body: bytes) -> list[str]:
    """The slow reference: the object that the standard library finishes last is the outermost."""
    found: list[list[str]] = []
    json.loads(body, object_pairs_hook=lambda pairs: found.append([name for name, _ in pairs]))
    return found[-1]


@settings(PATIENT, max_examples=600)
@given(members=LARGE_BODIES, space=SPACE)
def test_a_large_body_is_read_like_a_small_one(members: list[tuple[str, int, bytes]], space: bytes) -> None:
    body = space + object_of(members, space) + space
    names = names_at_the_top(body)
    if len(set(names)) == len(names):
        read = parse(body)
        assert (read, [*read]) == (orjson.loads(body), names)
    else:
        error = refusal(body)
        second = next(name for at, name in enumerate(names) if name in names[:at])
        assert (error.code, error.param) == ("duplicate_field", second)


@settings(PATIENT, max_examples=600)
@given(
    members=LARGE_BODIES,
    space=SPACE,
    at=st.integers(-60, 60),
    put=st.sampled_from(
        [b"", b",", b"]", b"}", b'"', b"\\", b"[", b"{", b":", b"0", b"\xff", b'],"n":[', b'"}],"n":["', b'"n":1,']
    ),
    cut=st.integers(0, 2),
)
def test_a_large_body_with_a_fault_near_an_end_is_never_taken_for_a_sound_one(
    members: list[tuple[str, int, bytes]], space: bytes, at: int, put: bytes, cut: int
) -> None:
    body = object_of(members, space)
    at %= len(body)
    body = body[:at] + put + body[at + cut :]
    try:
        expected = orjson.loads(body)
        sound = isinstance(expected, dict) and len(set(names := names_at_the_top(body))) == len(names)
    except ValueError:
        sound = False
    if sound:
        assert parse(body) == expected
    else:
        refusal(body)


@pytest.mark.parametrize(
    "behind", [b"", b',"n":1', b',"tools":[{"function":{"parameters":{"required":["n"]}}}],"n":1,"stop":["]","}"],"m":{"n":2}']
)
@pytest.mark.parametrize(
    ("large", "field"),
    [
        (b'["' + b"word " * 2000 + b'"],"a":[1],"a":[2]', "a"),
        (b'["' + b"word " * 2000 + b'"],"messages":["x"]', "messages"),
        (b'"' + b"word " * 2000 + b'","model":"m","a":"x"', "model"),
        (b'[{"content":"' + b"word " * 2000 + b'"}],"\\u006dodel":"n","a":[{"b":"x"}]', "model"),
        (b'[{"content":"' + b"word " * 2000 + b'"} ] , "model" : "n" , "a" : [ { "b" : "x" } ]', "model"),
    ],
)
def test_a_field_that_stands_twice_is_refused_behind_a_large_one_too(large: bytes, field: str, behind: bytes) -> None:
    error = refusal(b'{"model":"m","messages":' + large + behind + b"}")
    assert (error.code, error.param) == ("duplicate_field", field)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("last", [b'"x"', b'{"content":"x"}'])
def test_nesting_has_one_bound_for_bodies_of_any_size(large: bool, last: bytes) -> None:
    def nested(levels: int) -> bytes:
        text = b"word " * (2000 if large else 2)
        return (
            b'{"n":1,"messages":["' + text + b'",' + b"[" * (levels - 2) + b"]" * (levels - 2) + b"," + last + b'],"stream":true}'
        )

    assert parse(nested(254)) == orjson.loads(nested(254))
    assert refusal(nested(255)).code == "nested_too_deeply"


@settings(PATIENT, max_examples=600)
@given(members=LARGE_BODIES, space=SPACE, around=SPACE, edits=EDITS)
def test_a_large_body_keeps_every_byte_but_those_of_the_fields_that_were_set(
    members: list[tuple[str, int, bytes]], space: bytes, around: bytes, edits: dict[str, Any]
) -> None:
    members = list({name: (name, escapes, value) for name, escapes, value in members}.values())
    body = around + object_of(members, space) + around
    added = {name: value for name, value in edits.items() if name not in [name for name, _, _ in members]}
    kept = [(name, escapes, orjson.dumps(edits[name]) if name in edits else value) for name, escapes, value in members]
    inserted = orjson.dumps(added)[1:-1] + (b"," if added else b"")
    assert b"".join(patched(call(body, **edits))) == around + object_of(kept, space).replace(b"{", b"{" + inserted, 1) + around


@settings(PATIENT, max_examples=500)
@given(members=members_of(VALUES), space=SPACE, around=SPACE, edits=EDITS)
def test_any_body_in_any_spelling_keeps_every_byte_but_those_of_the_fields_that_were_set(
    members: list[tuple[str, int, bytes]], space: bytes, around: bytes, edits: dict[str, Any]
) -> None:
    body = around + object_of(members, space) + around
    sent = b"".join(patched(call(body, **edits)))

    assert json.loads(sent) == {**json.loads(body), **edits}
    kept = [(name, escapes, orjson.dumps(edits[name]) if name in edits else value) for name, escapes, value in members]
    added = {name: value for name, value in edits.items() if name not in [name for name, _, _ in members]}
    inserted = orjson.dumps(added)[1:-1] + (b"," if added and members else b"")
    assert sent == around + object_of(kept, space).replace(b"{", b"{" + inserted, 1) + around


@settings(PATIENT, max_examples=300)
@given(members=st.lists(st.tuples(NAMES, st.integers(0, 2), VALUES), max_size=6), space=SPACE)
def test_a_body_parses_as_the_standard_library_reads_it_or_names_the_field_that_stands_twice(
    members: list[tuple[str, int, bytes]], space: bytes
) -> None:
    body = object_of(members, space)
    names = [name for name, _, _ in members]
    if len(set(names)) == len(names):
        assert parse(body) == json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 19 else float(digits))
    else:
        assert names.count(str(refusal(body).param)) > 1
