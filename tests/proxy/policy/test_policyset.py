"""A compiled set: which rules a call meets, how much body is read, and where a model goes."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.call import Call, Principal
from proxy.errors import Refusal
from proxy.policy.contract import Balance, Clause
from proxy.policy.policyset import DEFAULT_BODY_BYTES, Globs, PolicySet
from proxy.timeouts import Timeouts
from tests.policies.calls import a_call
from tests.proxy.policy.files import compiled, with_policies

CHAT = "/v1/chat/completions"
WEB = Principal("web", "ada", ("interactive", "team-a"))
NIGHTLY = Principal("nightly", "nightly", ("batch",))

KEYS = """version: 1
keys:
  - {id: web, hash: "sha256:8f5615fb69090581a0a3b6af707f920bee37f76fb536b1d0a1a39cddb8ce3c16", tags: [interactive, team-a]}
  - {id: nightly, hash: "sha256:5417048ec1f8f7d0357a914a4e01242b3039534ab1e40dd22618a40f30e59f64", tags: [batch]}
"""


def names(clauses: tuple[Clause, ...]) -> list[str]:
    return [f"{clause.policy}.{clause.clause}" for clause in clauses]


def policies_met(policies: PolicySet, principal: Principal, path: str, model: str | None) -> list[str]:
    return [clause.policy for clause, _ in policies.plan(principal, path, model).charges]


@pytest.mark.parametrize(
    ("match", "principal", "path", "model", "met"),
    [
        ("{}", WEB, CHAT, "gpt-4.1", True),
        ("{keys: web}", WEB, CHAT, "gpt-4.1", True),
        ("{keys: [nightly]}", WEB, CHAT, "gpt-4.1", False),
        ("{keys: [nightly, web]}", WEB, CHAT, "gpt-4.1", True),
        ("{tags: [team-a]}", WEB, CHAT, "gpt-4.1", True),
        ("{tags: [batch]}", WEB, CHAT, "gpt-4.1", False),
        ("{tags: [batch, interactive]}", WEB, CHAT, "gpt-4.1", True),
        ("{keys: web, tags: batch}", WEB, CHAT, "gpt-4.1", False),
        ('{models: "gpt-*"}', WEB, CHAT, "gpt-4.1", True),
        ("{models: [gpt-4]}", WEB, CHAT, "gpt-4.1", False),
        ('{models: "*"}', WEB, "/v1/models", None, False),
        ("{paths: [/v1/embeddings]}", WEB, CHAT, "gpt-4.1", False),
        ('{paths: ["/v1/chat/*"]}', WEB, CHAT, "gpt-4.1", True),
        ("{paths: [/v1/chat]}", WEB, CHAT, "gpt-4.1", False),
        ('{keys: web, tags: team-a, models: "gpt-4.?", paths: /v1/chat/completions}', WEB, CHAT, "gpt-4.1", True),
    ],
)
def test_a_policy_meets_the_calls_that_fit_every_list(
    match: str, principal: Principal, path: str, model: str | None, met: bool
) -> None:
    policies = compiled(KEYS + f"policies:\n  - {{name: p, match: {match}, concurrency: {{calls: 1}}}}\n")
    assert policies_met(policies, principal, path, model) == (["p"] if met else [])


def test_every_matching_policy_applies_and_each_hook_lists_only_those_that_have_it() -> None:
    policies = with_policies(
        "{name: a, budget: {usd: 5, per: day}, rate_limit: {requests: 5, per: minute}, max_tokens: {cap: 5}}",
        "{name: b, models: {allow: [gpt-4.1]}, concurrency: {calls: 1}, timeouts: {total: 1m}}",
        "{name: c, mode: shadow, request_size: {max: 1KB}, token_limit: {tokens: 5, per: minute}, max_tokens: {cap: 2}}",
    )
    plan = policies.plan(WEB, CHAT, "gpt-4.1")
    assert names(plan.prepare) == ["b.models", "a.max_tokens", "b.timeouts"]
    assert names(plan.check) == ["b.models", "a.max_tokens"]
    assert names(plan.shadow_prepare) == ["c.max_tokens"]
    assert names(plan.shadow_check) == ["c.request_size", "c.max_tokens"]
    assert [(f"{c.policy}.{c.clause}", shadow) for c, shadow in plan.charges] == [
        ("a.rate_limit", False),
        ("b.concurrency", False),
        ("c.token_limit", True),
        ("a.budget", False),
    ]
    assert list(plan.watchers) == [("a", "budget")]


def test_the_order_of_policies_in_the_file_never_matters() -> None:
    lines = (
        "{name: a, models: {alias: {fast: gpt-4.1}}, budget: {usd: 5, per: day}}",
        '{name: b, match: {models: "gpt-*"}, max_tokens: {cap: 5}, request_size: {max: 1MB}}',
        "{name: c, models: {allow: [gpt-4.1]}, rate_limit: {requests: 1, per: minute}, request_size: {max: 1MB}}",
    )
    seen = set()
    for order in permutations(lines):
        policies = with_policies(*order)
        plan = policies.plan(WEB, CHAT, "fast")
        hooks = tuple(tuple(sorted(names(hook))) for hook in (plan.prepare, plan.check, tuple(c for c, _ in plan.charges)))
        seen.add((plan.model, hooks, policies.body_limit(WEB, CHAT)))
    assert len(seen) == 1


def test_an_alias_is_no_way_around_a_rule_about_the_model_that_is_sent() -> None:
    policies = with_policies(
        "{name: names, models: {alias: {cheap: gpt-5}}}",
        '{name: dear, match: {models: "gpt-5"}, concurrency: {calls: 1}}',
        '{name: asked, match: {models: "cheap"}, rate_limit: {requests: 1, per: minute}}',
        '{name: other, match: {models: "gpt-4"}, rate_limit: {requests: 1, per: minute}}',
    )
    plan = policies.plan(WEB, CHAT, "cheap")
    assert plan.model == "gpt-5"
    assert sorted(clause.policy for clause, _ in plan.charges) == ["asked", "dear"]


def test_a_shadowed_alias_sends_nothing_elsewhere() -> None:
    policies = with_policies("{name: later, mode: shadow, models: {alias: {gpt-4: gpt-5}}}")
    assert policies.plan(WEB, CHAT, "gpt-4").model == "gpt-4"


def test_a_plan_is_made_once_and_what_clients_can_make_us_remember_is_bounded() -> None:
    policies = with_policies("{name: a, concurrency: {calls: 1}}")
    assert policies.plan(WEB, CHAT, "gpt-4.1") is policies.plan(WEB, CHAT, "gpt-4.1")
    for n in range(5000):
        policies.plan(WEB, CHAT, f"model-{n}")
        policies.body_limit(WEB, f"/v1/files/{n}")
    policies.plan(WEB, CHAT, "m" * 10_000)
    assert len(policies._plans) <= 4096
    assert len(policies._limits) <= 4096
    assert max(len(model or "") for _, _, model in policies._plans) < 1000
    assert policies_met(policies, WEB, CHAT, "gpt-4.1") == ["a"]


STEADY = "{name: a, rate_limit: {requests: 5, per: minute, by: [user, model]}, concurrency: {calls: 1, by: tag}}"
VARYING = "{name: b, budget: {usd: 5, per: day}, token_limit: {tokens: 5000, per: minute}}"
SHADOWED = "{name: c, mode: shadow, concurrency: {calls: 1}, token_limit: {tokens: 5, per: minute}}"
CALLS = st.builds(
    lambda user, tags, model, bound: a_call(principal=Principal("web", user, tags), model=model, input_bound=bound),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from([(), ("x",), ("x", "y")]),
    st.sampled_from(["gpt-4.1", "o3", None]),
    st.integers(0, 3),
)


@given(st.lists(st.sampled_from([STEADY, VARYING, SHADOWED]), min_size=1, unique=True), st.lists(CALLS, max_size=12))
def test_what_is_held_of_a_call_does_not_depend_on_the_calls_before_it(lines: list[str], calls: list[Call]) -> None:
    policies = with_policies(*lines)
    for call in calls:
        plan = policies.plan(WEB, CHAT, call.model)
        asked = [(c.limit, c.subject, c.amount, c.enforced and not shadow) for k, shadow in plan.charges for c in k.charges(call)]
        held = [(c.limit, c.subject, c.amount, c.enforced) for c in policies.charges(call, plan)]
        assert sorted(held, key=repr) == sorted(asked, key=repr)


def test_charges_asked_for_are_the_callers_to_change() -> None:
    policies = with_policies(STEADY)
    plan = policies.plan(WEB, CHAT, "gpt-4.1")
    once = policies.charges(a_call(), plan)
    count = len(once)
    once.clear()
    assert len(policies.charges(a_call(), plan)) == count > 0


def test_a_settled_balance_is_told_to_the_clause_it_belongs_to() -> None:
    policies = with_policies("{name: money, budget: {usd: 1, per: day, alarm_at: [50]}, concurrency: {calls: 1}}")
    plan = policies.plan(WEB, CHAT, "gpt-4.1")
    charges = [charge for clause, _ in plan.charges for charge in clause.charges(a_call())]
    balances = [Balance(charge, remaining=0, reset_s=0.0, spent=600_000_000, window=(0, 86400)) for charge in charges]
    assert [notice.threshold for balance in balances for notice in plan.notices(balance)] == [50]


@pytest.mark.parametrize(
    ("policies", "principal", "path", "limit"),
    [
        ([], WEB, CHAT, (DEFAULT_BODY_BYTES, None)),
        (["{name: a, request_size: {max: 2MB}}"], WEB, CHAT, (2_000_000, "a")),
        (["{name: a, request_size: {max: 2MB}}", "{name: b, request_size: {max: 1MB}}"], WEB, CHAT, (1_000_000, "b")),
        (["{name: a, request_size: {max: 1GB}}"], WEB, CHAT, (10**9, "a")),
        (["{name: a, match: {keys: nightly}, request_size: {max: 1MB}}"], WEB, CHAT, (DEFAULT_BODY_BYTES, None)),
        (["{name: a, match: {keys: nightly}, request_size: {max: 1MB}}"], NIGHTLY, CHAT, (1_000_000, "a")),
        (["{name: a, match: {tags: batch}, request_size: {max: 1MB}}"], NIGHTLY, CHAT, (1_000_000, "a")),
        (["{name: a, match: {paths: /v1/embeddings}, request_size: {max: 1MB}}"], WEB, CHAT, (DEFAULT_BODY_BYTES, None)),
        (["{name: a, match: {paths: /v1/embeddings}, request_size: {max: 1MB}}"], WEB, "/v1/embeddings", (1_000_000, "a")),
        (['{name: a, match: {models: "*"}, request_size: {max: 1MB}}'], WEB, CHAT, (DEFAULT_BODY_BYTES, None)),
        (["{name: a, mode: shadow, request_size: {max: 1MB}}"], WEB, CHAT, (DEFAULT_BODY_BYTES, None)),
    ],
)
def test_the_body_is_bounded_by_what_is_known_before_it_is_read(
    policies: list[str], principal: Principal, path: str, limit: tuple[int, str | None]
) -> None:
    text = KEYS + "policies:\n" + "".join(f"  - {policy}\n" for policy in policies) if policies else KEYS
    assert compiled(text).body_limit(principal, path) == limit
    assert compiled(text).body_limit(principal, path) == limit


ROUTED = """
upstreams:
  openai: {base_url: "https://api.openai.com/v1"}
  gpu: {base_url: "http://gpu/v1", timeouts: {total: 1h, connect: 100ms}, retries: {attempts: 5}, forward_headers: [X-Team]}
routes:
  - {models: ["gemma-*", "llama-*"], to: gpu}
  - {models: "gpt-*", to: [openai, gpu]}
"""


def test_the_first_matching_route_says_where_a_model_goes() -> None:
    policies = compiled(KEYS + ROUTED)
    assert policies.route("gemma-3") == ("gpu",)
    assert policies.route("gpt-4.1") == ("openai", "gpu")
    assert compiled(KEYS + ROUTED + '  - {to: openai}\n  - {models: "x", to: gpu}\n').route("x") == ("openai",)


@pytest.mark.parametrize(("model", "what"), [("mistral", "the model 'mistral'"), (None, "a call without a model")])
def test_a_call_that_no_route_takes_is_refused(model: str | None, what: str) -> None:
    with pytest.raises(Refusal) as refusal:
        compiled(KEYS + ROUTED).route(model)
    assert (refusal.value.code, refusal.value.message) == ("model_not_allowed", f"No route takes {what}.")


def test_an_upstream_is_what_the_file_says_and_the_usual_otherwise() -> None:
    upstreams = compiled(KEYS + ROUTED).upstreams
    assert upstreams["gpu"].timeouts == Timeouts(total=3600.0, connect=0.1)
    assert (upstreams["gpu"].attempts, upstreams["gpu"].forward_headers) == (5, ("x-team",))
    assert (upstreams["openai"].timeouts, upstreams["openai"].attempts, upstreams["openai"].api_key) == (Timeouts(), 2, None)


@pytest.mark.parametrize(
    ("path", "unmetered"),
    [
        ("/v1/files", True),
        ("/v1/files/file-1/content", True),
        ("/v1/batches", False),
        ("/v1/batches/b", True),
        ("/v2/files", False),
    ],
)
def test_only_listed_paths_pass_without_a_meter(path: str, unmetered: bool) -> None:
    policies = compiled(KEYS + 'unmetered: ["/v1/files*", "/v1/batches/*"]\n')
    assert policies.is_unmetered(path) is unmetered
    assert not compiled(KEYS).is_unmetered(path)


@pytest.mark.parametrize(
    ("patterns", "text", "matches"),
    [
        (["gpt-*"], "gpt-4", True),
        (["gpt-*"], "xgpt-4", False),
        (["a", "b*"], "bc", True),
        (["a.c"], "abc", False),
        (["*"], "", True),
        ([], "", False),
        (["a*"], "a\nb", True),
        (["a"], "a\n", False),
    ],
)
def test_patterns_match_whole_names(patterns: list[str], text: str, matches: bool) -> None:
    assert Globs(patterns).match(text) is matches


def test_a_pattern_of_many_stars_is_no_trap() -> None:
    assert not Globs(["*a" * 60 + "*b"]).match("a" * 200)


def test_what_a_set_shows_of_itself_holds_no_secret() -> None:
    secrets = """upstreams:
  openai: {base_url: "https://api.openai.com/v1", api_key: "${env:CANARY}"}
pages:
  a: {slack: {url: "https://hooks.slack.com/${env:CANARY}"}}
  b: {webhook: {url: "https://example.com/${env:CANARY}", secret: "${env:WEBHOOK_SECRET}"}}
  c: {pagerduty: {routing_key: "${env:PAGERDUTY_KEY}"}}
"""
    policies = compiled(KEYS + secrets)
    shown = (
        f"{policies!r} {policies.upstreams!r} {policies.pages!r} {policies.keys!r} {policies.policies!r} {policies.source.found!r}"
    )
    for secret in ("canary", "whsec_", "0123456789abcdef", "8f5615fb", "hooks.slack"):
        assert secret not in shown
    assert repr(policies) == f"<PolicySet {policies.version} upstreams=1 keys=2 policies=0 prices={policies.prices.version}>"
