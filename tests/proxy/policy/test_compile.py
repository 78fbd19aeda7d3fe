"""From text to a policy set, or to every mistake at once.

Each file in tests/broken holds mistakes; the messages it must give, all of them and nothing else, stand beside it in a .txt file.
"""

import copy
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policies import DEFAULT, KINDS
from proxy.call import Price
from proxy.errors import NotAdmitted
from proxy.policy.compile import compile_text
from proxy.policy.document import PolicyFileError
from proxy.policy.lints import lints
from proxy.policy.policyset import UpstreamConfig
from tests.proxy.policy.files import BROKEN, ENV, HEAD, ROOT, UPSTREAM, compiled, mistakes

BROKEN_FILES = sorted(path.stem for path in BROKEN.glob("*.yaml"))
EXAMPLES = sorted((ROOT / "policies" / "examples").glob("*.yaml"))


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_a_broken_file_is_told_all_its_mistakes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)  # so that the messages name the file and not where the tests are
    with pytest.raises(PolicyFileError) as error:
        compile_text(Path(f"{name}.yaml").read_bytes(), file=f"{name}.yaml", kinds=KINDS, env=ENV)
    assert str(error.value) + "\n" == Path(f"{name}.txt").read_text(encoding="utf-8")


def test_every_message_has_a_broken_file_and_every_broken_file_a_message() -> None:
    assert {path.stem for path in BROKEN.glob("*.txt")} == set(BROKEN_FILES)


@pytest.mark.parametrize("name", BROKEN_FILES)
def test_no_message_shows_what_was_filled_in_or_is_secret(name: str) -> None:
    text = (BROKEN / f"{name}.txt").read_text(encoding="utf-8")
    assert "canary" not in text
    assert "th-" not in text


@pytest.mark.parametrize("path", [DEFAULT, *EXAMPLES], ids=lambda path: path.stem)
def test_the_shipped_files_are_right_and_give_no_warning(path: Path) -> None:
    policies = compile_text(path.read_bytes(), file=str(path), kinds=KINDS, env=ENV, upstream=UPSTREAM)
    assert [str(warning) for warning in lints(policies)] == []
    assert policies.policies


def test_there_are_examples_for_the_usual_cases() -> None:
    assert {path.stem for path in EXAMPLES} >= {"one-team", "many-teams", "self-hosted", "strict"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_keys_of_an_example_are_made_up_and_say_so(path: Path) -> None:
    """Whoever copies an example without replacing its keys uses keys that anyone can read here."""
    policies = compile_text(path.read_bytes(), file=str(path), kinds=KINDS, env=ENV)
    for key in policies.keys.keys:
        assert key.digest in (None, sha256(f"example-key-{key.id}".encode()).digest())


def test_the_default_file_has_the_three_first_cost_controls_on() -> None:
    policies = compile_text(DEFAULT.read_bytes(), file=str(DEFAULT), kinds=KINDS, env={}, upstream=UPSTREAM)
    principal = policies.identify(presented="sk-anything", header={"x-user-id": "ada"}.get, loopback=True, now_s=0.0)
    assert (principal.key, principal.user) == ("app", "ada")
    plan = policies.plan(principal, "/v1/chat/completions", "gpt-4.1")
    hooks = {clause.clause for clause, shadow in plan.charges if not shadow} | {clause.clause for clause in plan.prepare}
    assert hooks >= {"max_tokens", "rate_limit", "budget", "concurrency"}
    assert policies.deny_unpriced
    with pytest.raises(NotAdmitted):
        policies.identify(presented=None, header={}.get, loopback=False, now_s=0.0)


def test_the_version_is_of_the_bytes() -> None:
    data = HEAD.encode()
    one, same = (compile_text(data, file=name, kinds=KINDS, env={}, upstream=UPSTREAM) for name in ("a.yaml", "b.yaml"))
    assert one.version == same.version == sha256(data).hexdigest()[:12]
    assert compiled(HEAD + "# a comment\n").version != one.version


def test_a_file_that_names_no_upstream_uses_the_one_from_the_settings() -> None:
    given = UpstreamConfig(base_url="http://127.0.0.1:9/v1", api_key="sk-example")
    policies = compiled(HEAD, upstream=given)
    assert policies.upstreams == {"default": given}
    assert policies.route("anything") == policies.route(None) == ("default",)
    assert compiled(HEAD + "routes: [{to: default}]\n").route(None) == ("default",)


def test_a_file_s_own_upstream_wins_over_the_settings() -> None:
    policies = compiled(HEAD + 'upstreams: {own: {base_url: "http://own/v1"}}\n')
    assert {name: upstream.base_url for name, upstream in policies.upstreams.items()} == {"own": "http://own/v1"}
    assert policies.route("anything") == ("own",)


@pytest.mark.parametrize(
    ("prices", "model", "price"),
    [
        ("{unknown: deny}", "no-such-model", None),
        ("{unknown: free}", "no-such-model", Price(0, 0, 0, 0, 0, 0)),
        ("{unknown: {input: 5.00, output: 15}}", "no-such-model", Price(5 * 10**9, 15 * 10**9, *[5 * 10**9] * 3, 15 * 10**9)),
        (
            '{models: {"own-*": {input: 1, output: 2, cached_input: 0}}}',
            "own-1",
            Price(10**9, 2 * 10**9, 0, 10**9, 10**9, 2 * 10**9),
        ),
    ],
)
def test_prices_are_exact_and_an_absent_class_is_not_free(prices: str, model: str, price: Price | None) -> None:
    policies = compiled(HEAD + f"prices: {prices}\n")
    assert policies.prices.find(model) == price
    assert policies.deny_unpriced is ("unknown: free" not in prices and "unknown: {" not in prices)


EVERY_WORD = """prices:
  tier: flex
  tools: {web_search: 0.01}
  models:
    a: {input: 1, output: 2, image_output: 3, tiers: {flex: {input: 0.5, output: 1}}, long: {above: 100, input: 4, output: 5}}
    b: [{input: 1, output: 1}, {from: 2026-12-01, input: 0, output: 0, second: 0.0001, call: 0.5}]
"""


def test_prices_have_tiers_long_inputs_units_and_dates() -> None:
    prices = compiled(HEAD + EVERY_WORD).prices
    a, dated_s = prices.find("a", "default"), datetime(2026, 12, 1, tzinfo=UTC).timestamp()
    assert a is not None
    assert a.long is not None
    assert (a.image_output, a.long_above, a.long.input, a.tiers["flex"].output) == (3 * 10**9, 100, 4 * 10**9, 10**9)
    assert (prices.tier, prices.tools) == ("flex", {"web_search": 10**7})
    before, after = (prices.at(dated_s + seconds).find("b", "default") for seconds in (-1, 0))
    assert before == Price(*[10**9] * 6)
    assert after == Price(*[0] * 6, unit=100_000_000, call=500_000_000)


def test_a_key_expires_at_the_beginning_of_its_day_in_utc() -> None:
    policies = compiled(HEAD + "  - {id: x, hash: 'sha256:" + "0" * 64 + "', expires: 2027-01-01}\n")
    assert policies.keys.keys[1].expires_s == datetime(2027, 1, 1, tzinfo=UTC).timestamp()


def test_secrets_are_filled_in_from_the_environment_and_from_files_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-from-file\n")
    text = (
        HEAD
        + 'upstreams:\n  a: {base_url: "http://a", api_key: "${file:key}"}\n  b: {base_url: "http://${env:HOST}", api_key: "${env:KEY}"}\n'
    )
    policies = compiled(text + "routes: [{to: [a, b]}]\n", file=str(tmp_path / "policy.yaml"), env={"HOST": "b", "KEY": "sk-env"})
    assert [(u.base_url, u.api_key) for u in policies.upstreams.values()] == [("http://a", "sk-from-file"), ("http://b", "sk-env")]
    assert list(policies.source.files) == [tmp_path / "key"]


def test_numbers_can_come_from_the_environment() -> None:
    policies = compiled(HEAD + "policies: [{name: a, max_tokens: {cap: '${env:CAP}'}}]\n", env={"CAP": "77"})
    assert policies.policies[0].clauses[0].cap == 77  # type: ignore[attr-defined]


def test_one_word_may_stand_for_a_list_of_one() -> None:
    short = "{name: a, match: {keys: app, models: x}, rate_limit: {requests: 1, per: minute, by: key}, models: {allow: x}}"
    long = "{name: a, match: {keys: [app], models: [x]}, rate_limit: {requests: 1, per: minute, by: [key]}, models: {allow: [x]}}"
    one, other = (compiled(HEAD + f"policies: [{policy}]\n") for policy in (short, long))
    assert one.policies[0].clauses == other.policies[0].clauses


def test_mistakes_without_end_are_cut_off() -> None:
    text = HEAD + "policies:\n" + "".join(f"  - {{name: p{n}, concurrency: {{calls: 0}}}}\n" for n in range(900))
    found = mistakes(text)
    assert len(found) == 201
    assert "more than 200 mistakes" in found[-1]


# ---- whatever is written, the answer is a set or a list of mistakes ----

ALL_SECTIONS: dict[str, Any] = yaml.safe_load((ROOT / "policies" / "examples" / "many-teams.yaml").read_text(encoding="utf-8"))
ODD_VALUES = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        10**30,
        1.5,
        float("nan"),
        "",
        "no",
        "x",
        "*",
        "${env:CANARY}",
        "${env:",
        "${file:/}",
        [],
        [[]],
        {},
        {"": ""},
        {"a": 1},
    ]
)


def _spots(value: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree where something could stand instead."""
    if isinstance(value, dict):
        return [(value, key) for key in value] + [spot for child in value.values() for spot in _spots(child)]
    if isinstance(value, list):
        return [(value, n) for n in range(len(value))] + [spot for child in value for spot in _spots(child)]
    return []


@given(st.data())
def test_a_file_with_anything_anywhere_gives_a_set_or_mistakes(data: st.DataObject) -> None:
    content = copy.deepcopy(ALL_SECTIONS)
    for _ in range(data.draw(st.integers(1, 4))):
        where, key = data.draw(st.sampled_from(_spots(content)))
        where[key] = copy.deepcopy(data.draw(ODD_VALUES))
    for message in mistakes(yaml.safe_dump(content)):
        assert "canary" not in message
        assert "\n" not in message


@given(st.binary(max_size=300))
def test_any_bytes_give_mistakes(data: bytes) -> None:
    with pytest.raises(PolicyFileError) as error:
        compile_text(data, file="f", kinds=KINDS, env={})
    assert error.value.mistakes


@given(st.integers(0, 4000))
def test_a_file_cut_short_gives_a_set_or_mistakes(length: int) -> None:
    text = (ROOT / "policies" / "examples" / "many-teams.yaml").read_text(encoding="utf-8")
    for message in mistakes(text[:length], upstream=None):
        assert "sk-example" not in message


def test_the_thinking_part_imports_no_event_loop_and_no_sockets() -> None:
    for path in (ROOT / "proxy" / "policy").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for library in ("asyncio", "aiohttp", "socket", "policies"):
            assert f"import {library}" not in text, (path.name, library)
            assert f"from {library}" not in text, (path.name, library)
