"""The clause `models`: what may be sent, and which name is sent for which."""

import pytest

from policies.models import Models
from proxy.errors import Refusal
from proxy.policy.scalar import Wrong
from tests.policies.calls import a_call


def models(**fields: object) -> Models:
    return Models(policy="interactive", **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("allow", "model", "passes"),
    [
        (("gpt-4.1",), "gpt-4.1", True),
        (("gpt-4.1",), "gpt-4.1-mini", False),
        (("gpt-4.1*",), "gpt-4.1-mini", True),
        (("gpt-4.?",), "gpt-4.1", True),
        (("gpt-4.?",), "gpt-4.12", False),
        (("gemma-*", "gpt-4.1"), "gpt-4.1", True),
        (("gpt-4.1",), "GPT-4.1", False),
        (("gpt-4.1",), "openai/gpt-4.1", False),
        (("*",), "anything at all", True),
        (None, "anything at all", True),
    ],
)
def test_only_allowed_models_pass(allow: tuple[str, ...] | None, model: str, passes: bool) -> None:
    clause = models(allow=allow, alias={"other": "name"})
    call = a_call(model=model)
    if passes:
        clause.check(call)
        return
    with pytest.raises(Refusal) as refusal:
        clause.check(call)
    assert (refusal.value.code, refusal.value.status, refusal.value.param) == ("model_not_allowed", 403, "model")
    assert (refusal.value.policy, refusal.value.clause) == ("interactive", "models")


def test_a_refusal_names_the_policy_and_what_it_allows() -> None:
    with pytest.raises(Refusal) as refusal:
        models(allow=("gpt-4.1*", "gemma-*")).check(a_call(model="o3"))
    assert refusal.value.message == "Policy 'interactive' does not allow the model 'o3'; it allows gpt-4.1*, gemma-*."


def test_an_alias_sends_the_other_name() -> None:
    call = a_call(model="gpt-4")
    models(alias={"gpt-4": "gpt-4.1"}).prepare(call)
    assert (call.model_asked, call.model, call.edits) == ("gpt-4", "gpt-4.1", {"model": "gpt-4.1"})


def test_a_model_without_an_alias_leaves_the_body_alone() -> None:
    call = a_call(model="gpt-4.1")
    models(alias={"gpt-4": "gpt-4.1"}).prepare(call)
    assert (call.model, call.edits) == ("gpt-4.1", {})


def test_an_alias_of_another_policy_s_target_is_not_followed() -> None:
    one, other = models(alias={"fast": "gpt-4"}), models(alias={"gpt-4": "gpt-4.1"})
    for order in ((one, other), (other, one)):
        call = a_call(model="fast")
        for clause in order:
            clause.prepare(call)
        assert call.model == "gpt-4"


def test_what_is_allowed_is_the_name_that_is_sent() -> None:
    clause = models(allow=("gpt-4.1",), alias={"gpt-4": "gpt-4.1", "cheap": "o3"})
    call = a_call(model="gpt-4")
    clause.prepare(call)
    clause.check(call)
    call = a_call(model="cheap")
    clause.prepare(call)
    with pytest.raises(Refusal, match="model_not_allowed") as refusal:
        clause.check(call)
    assert "'o3', sent for 'cheap'" in refusal.value.message


def test_a_call_without_a_model_passes_only_where_the_api_needs_none() -> None:
    clause = models(allow=("gpt-4.1",))
    clause.prepare(a_call("models", model=None))
    clause.check(a_call("models", model=None))
    clause.check(a_call("responses", model=None))
    with pytest.raises(Refusal, match="model_not_allowed"):
        clause.check(a_call("chat/completions", model=None))


def test_a_clause_that_says_nothing_is_a_mistake() -> None:
    with pytest.raises(Wrong):
        models()


def test_a_long_model_name_does_not_fill_the_message() -> None:
    with pytest.raises(Refusal) as refusal:
        models(allow=("gpt-4.1",)).check(a_call(model="x" * 10_000))
    assert len(refusal.value.message) < 300
