"""Parts of a file held against each other. What must be a mistake is in tests/broken; here is what must not, and the bounds."""

import pytest

from tests.proxy.policy.files import HEAD, mistakes


@pytest.mark.parametrize(
    "policies",
    [
        "[{name: a, match: {keys: a}, models: {alias: {x: y}}}, {name: b, match: {keys: b}, models: {alias: {x: z}}}]",
        "[{name: a, match: {tags: one}, models: {alias: {x: y}}}, {name: b, match: {tags: two}, models: {alias: {x: z}}}]",
        "[{name: a, match: {paths: /v1/a}, models: {alias: {x: y}}}, {name: b, match: {paths: /v1/b}, models: {alias: {x: z}}}]",
        "[{name: a, match: {paths: '/v1/a*'}, models: {alias: {x: y}}}, {name: b, match: {paths: /v1/b}, models: {alias: {x: z}}}]",
        "[{name: a, match: {models: 'q*'}, models: {alias: {x: y}}}, {name: b, models: {alias: {x: z}}}]",
        "[{name: a, mode: shadow, models: {alias: {x: y}}}, {name: b, models: {alias: {x: z}}}]",
        "[{name: a, models: {alias: {x: y}}}, {name: b, models: {alias: {x: y}}}]",
        "[{name: a, match: {keys: a}, models: {alias: {x: y}}}, {name: b, match: {keys: b}, models: {alias: {y: z}}}]",
    ],
)
def test_aliases_that_no_single_call_can_meet_do_not_contradict_each_other(policies: str) -> None:
    keys = "".join(f"  - {{id: {name}, tags: [{tag}], hash: 'sha256:{name * 64}'}}\n" for name, tag in (("a", "one"), ("b", "two")))
    assert mistakes(HEAD + keys + f"policies: {policies}\n") == []


def test_patterns_of_paths_that_may_overlap_are_taken_to_overlap() -> None:
    text = "[{name: a, match: {paths: '/v1/a*'}, models: {alias: {x: y}}}, {name: b, match: {paths: '/v1/*'}, models: {alias: {x: z}}}]"
    assert len(mistakes(HEAD + f"policies: {text}\n")) == 1


def test_a_thousand_policies_are_enough() -> None:
    text = HEAD + "policies:\n" + "".join(f"  - {{name: p{n}, concurrency: {{calls: 1}}}}\n" for n in range(1001))
    assert mistakes(text) == ["1005:5: policies[1000]: more than 1000 policies; let one speak of many keys by their tags"]


def test_names_are_not_unknown_while_the_section_that_defines_them_is_broken() -> None:
    text = "version: 1\nkeys:\n  - {id: no}\npolicies: [{name: a, match: {keys: web}, concurrency: {calls: 1}}]\n"
    assert mistakes(text) == ['3:10: keys[0].id: YAML reads `no` as false; write "no" in quotes']


def test_a_name_counts_as_defined_even_where_what_it_names_is_broken() -> None:
    text = HEAD + "upstreams: {gpu: {base_url: nowhere}}\nroutes: [{to: gpu}]\npages: {team: {}}\n"
    found = mistakes(text + "policies: [{name: a, budget: {usd: 1, per: day, page: team}}]\n")
    assert [message.split(": ")[1] for message in found] == ["upstreams.gpu.base_url", "pages.team"]
