"""Warnings: a file that is right and may still not be what was meant."""

import pytest

from proxy.policy.lints import lints
from tests.proxy.policy.files import HEAD, compiled

KEYS = """version: 1
keys:
  - {id: web, hash: "sha256:8f5615fb69090581a0a3b6af707f920bee37f76fb536b1d0a1a39cddb8ce3c16", tags: [interactive]}
  - {id: app, anonymous: true, tags: [batch], user: {header: x-user-id}}
"""
FINE = "policies:\n  - {name: p, concurrency: {calls: 1}}\n"
TWO = 'upstreams: {openai: {base_url: "https://api.openai.com/v1"}, gpu: {base_url: "http://gpu/v1"}}\n'

CASES = {
    "a policy that no key reaches": (
        KEYS + "policies:\n  - {name: p, match: {keys: [web], tags: [batch]}, concurrency: {calls: 1}}\n",
        ["6:22: policies[0].match: no key has these ids and tags, so this policy never applies"],
    ),
    "a tag that no key carries": (
        KEYS + "policies:\n  - {name: p, match: {tags: [batch, nightly]}, concurrency: {calls: 1}}\n",
        ['6:37: policies[0].match.tags[1]: no key carries the tag "nightly"'],
    ),
    "a model without a price where such are denied": (
        KEYS + "policies:\n  - {name: p, models: {allow: [own-model, gpt-4.1, 'own-*'], alias: {gpt-4: own-model}}}\n",
        [
            '6:32: policies[0].models.allow[0]: the model "own-model" has no price, so `prices.unknown: deny` refuses it',
            '6:70: policies[0].models.alias.gpt-4: the model "own-model" has no price, so `prices.unknown: deny` refuses it',
        ],
    ),
    "a model without a price where such are free": (
        KEYS + "prices: {unknown: free}\npolicies:\n  - {name: p, models: {allow: [own-model]}}\n",
        [],
    ),
    "a route for a model without a price": (
        KEYS + TWO + "routes:\n  - {models: [own-model], to: gpu}\n  - {to: openai}\n" + FINE,
        ['7:15: routes[0].models[0]: the model "own-model" has no price, so `prices.unknown: deny` refuses it'],
    ),
    "an alias to a model that the same policy does not allow": (
        KEYS + "policies:\n  - {name: p, models: {allow: gpt-4.1, alias: {gpt-4: gpt-4o}}}\n",
        ['6:48: policies[0].models.alias.gpt-4: this policy does not allow "gpt-4o", so the alias is refused'],
    ),
    "a limit by user where no key names a user": (
        KEYS + "policies:\n  - {name: p, match: {keys: web}, rate_limit: {requests: 5, per: minute, by: [user, model]}}\n",
        [
            "6:79: policies[0].rate_limit.by[0]: no key it applies to names a user header (`user: {header: …}`), "
            "so everyone with one key counts as one user"
        ],
    ),
    "a route behind one that takes everything": (
        KEYS + TWO + "routes:\n  - {to: openai}\n  - {models: 'gpt-*', to: gpu}\n" + FINE,
        ["8:5: routes[1]: never used: routes[0] takes every call before it"],
    ),
    "no route for calls without a model": (
        KEYS + TWO + "routes:\n  - {models: 'gpt-*', to: [openai, gpu]}\n" + FINE,
        ["7:3: routes: no route takes calls without a model, such as GET /v1/models; a last route without `models` would"],
    ),
    "an upstream that no route leads to": (
        KEYS + TWO + "routes:\n  - {to: openai}\n" + FINE,
        ["5:62: upstreams.gpu: no route leads to this upstream"],
    ),
    "a page that no budget uses": (
        KEYS + "pages: {team: {log: {}}}\n" + FINE,
        ["5:9: pages.team: no budget and no upstream pages it"],
    ),
    "no policies": (HEAD, ["1:1: there are no policies: every call with a valid key passes, without a limit"]),
    "nothing but shadow": (
        KEYS + "policies:\n  - {name: p, mode: shadow, concurrency: {calls: 1}}\n",
        ["6:3: policies: every policy is in shadow mode: nothing is enforced"],
    ),
    "a secret in the file": (
        KEYS + 'upstreams: {openai: {base_url: "https://api.openai.com/v1", api_key: sk-c4n4ry}}\n' + FINE,
        ["5:70: upstreams.openai.api_key: a secret stands in the file itself; ${env:NAME} or ${file:/path} keeps it out"],
    ),
    "a secret that is filled in": (
        KEYS + 'upstreams: {openai: {base_url: "https://api.openai.com/v1", api_key: "${env:OPENAI_API_KEY}"}}\n' + FINE,
        [],
    ),
    "every path unmetered": (
        KEYS + 'unmetered: ["/v1/*"]\n' + FINE,
        ["5:13: unmetered[0]: every path that has no meter passes without one"],
    ),
}


@pytest.mark.parametrize(("text", "warnings"), CASES.values(), ids=CASES)
def test_what_looks_unintended_is_warned_about(text: str, warnings: list[str]) -> None:
    assert [str(warning).removeprefix("policy.yaml:") for warning in lints(compiled(text))] == warnings
