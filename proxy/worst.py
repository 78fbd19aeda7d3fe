"""The worst that a call can come to, where its body does not show it: hidden input, output without a cap, hosted tools.

The rule a reader could break: what is not known is the most there can be, or the call is refused; it is never nothing.
"""

from collections.abc import Mapping

from proxy.call import Call
from proxy.errors import Refusal
from proxy.policy.policyset import PolicySet
from proxy.policy.prices import PriceTable
from proxy.wire.hosted import ANY_TOOL, UNPAID
from proxy.wire.inputs import hides_input

# What a model reads and writes at most, when a call does not show it and the price table does not know the model.
MOST_CONTEXT = 1_000_000
MOST_OUTPUT = 131_072
MOST_TOOL_CALLS = 8  # of the upstream's own tools, in a call that names no bound


def hold_tools(prices: PriceTable, call: Call, offers: Mapping[str, str]) -> None:
    """What the upstream's own tools can cost, and how often it can call them. Errors: Refusal."""
    costs = {**dict.fromkeys(UNPAID, 0), **prices.tools}
    if call.price is not None and call.price.call:
        costs["web_search"] = 0  # the price of a call is that of its search
    for word, param in offers.items():
        if word not in costs and (word != ANY_TOOL or not prices.tools):
            what = "stored prompts, which may offer hosted tools" if word == ANY_TOOL else f"the hosted tool '{word}'"
            raise Refusal(
                "tool_not_priced",
                f"Calls of {what} may be charged for, and no price is known. The operator can set one under 'prices.tools'.",
                param=param,
                policy="prices",
                clause="tools",
            )
    call.tools = tuple(costs.items()) if ANY_TOOL in offers else tuple((word, costs[word]) for word in offers)
    if call.surface.name != "responses":
        call.tool_calls = 1
        return
    asked = (call.fields or {}).get("max_tool_calls")
    call.tool_calls = MOST_TOOL_CALLS if asked is None else asked
    if asked is None:
        call.edits["max_tool_calls"] = MOST_TOOL_CALLS


def unpriced(policies: PolicySet, call: Call) -> Refusal:
    """The refusal of a call that nobody knows the price of, where the policy file says so."""
    tier = (call.fields or {}).get("service_tier")
    if call.model is None:
        param, what = "model", "The call names no model, so it has no price"
    elif tier is None or policies.prices.find(call.model, "default") is None:
        param, what = "model", "The model has no price"
    else:
        param, what = "service_tier", f"The model has no price at the service tier '{tier}'"
    return Refusal(
        "model_not_priced",
        f"{what}, and the policy file denies such calls. The operator can set one under 'prices'.",
        param=param,
        policy="prices",
        clause="unknown",
    )


def bound(policies: PolicySet, call: Call) -> None:
    """What the call may use that its body does not show: input, and the output of one that names no cap."""
    if call.cap is None and call.surface.has_output:
        call.uncapped = policies.prices.most_output(call.model) or MOST_OUTPUT
    if call.unread is None and (call.fields is None or hides_input(call.surface.name, call.fields)):
        known = policies.prices.context(call.model) or MOST_CONTEXT
        call.input_bound = max(call.input_bound, known)
        if call.tools and call.surface.name == "responses":
            call.input_bound *= 1 + call.tool_calls  # what was read is read again after each of them
