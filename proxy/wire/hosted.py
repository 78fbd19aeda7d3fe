"""Tools that the upstream runs itself, each call of which it may charge for: what a body offers of them, and what an answer made of it.

A tool goes by one word, whatever its version: `web_search` for `web_search_preview_2025_03_11` and for an item `web_search_call`. The
rule a reader could break: a tool that is not known to run in the app is hosted.
"""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from proxy.wire.inputs import LOCAL_TOOLS

# What the upstream charges nothing for but the tokens.
UNPAID = frozenset({"mcp", "computer"})
# What a stored prompt offers is not in the body.
ANY_TOOL = "any"
_VERSION = re.compile(r"(?:_use)?(?:_preview)?(?:_20[0-9]{2}_[0-9]{2}_[0-9]{2})?\Z")


def offered(surface: str, fields: Mapping[str, Any]) -> dict[str, str]:
    """The words of the hosted tools that a body offers, each with the field that does. ANY_TOOL: there may be some."""
    found: dict[str, str] = {}
    if surface == "chat" and fields.get("web_search_options") is not None:
        found["web_search"] = "web_search_options"
    if surface == "responses" and fields.get("prompt") is not None:
        found[ANY_TOOL] = "prompt"
    tools = fields.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind not in LOCAL_TOOLS if isinstance(kind, str) else True:
            found[_VERSION.sub("", kind)[:64] if isinstance(kind, str) else ANY_TOOL] = "tools"
    return found


def called(output: Any) -> Mapping[str, int]:
    """How often each tool was called, by its word. output: the items of a responses answer."""
    kinds = (item.get("type") for item in output if isinstance(item, Mapping)) if isinstance(output, list) else ()
    return Counter(kind.removesuffix("_call") for kind in kinds if isinstance(kind, str) and kind.endswith("_call"))
