"""How many tokens a call's input is, when bytes or the upstream do not say."""

from proxy.call import Call
from proxy.tokens import Count, Tokenizer
from proxy.wire.body import all_fields
from proxy.wire.inputs import inputs


async def count_input(call: Call, tokenizer: Tokenizer) -> Count:
    """Tokens of the input that was found in the body. Input that the body only points at counts at its bound, and is not exact."""
    found = inputs(call.surface.name, all_fields(call))
    if found.hidden:
        return Count(call.input_bound, exact=False)
    counted = await tokenizer.count(found.texts, model=call.model or "")
    return Count(counted.tokens + found.tokens, exact=counted.exact)
