"""How the house is built, where a machine can see it: who may import whom, how long a file may be, who may swallow an error.

The map of proxy/README.md is the table here. The rule a reader could break: when this fails, the new import is usually the mistake;
a change of the table is a decision, and is written down there too.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for part in ("proxy", "policies") for path in (ROOT / part).rglob("*.py"))
MOST_LINES = 400

BASE = ("proxy.errors", "proxy.call", "proxy.timeouts", "proxy.clock", "proxy.chance")
VALUES = (*BASE, "proxy.wire", "proxy.policy")
PARTS = (*VALUES, "proxy.state", "proxy.upstream.contract", "proxy.telemetry")
STEPS = (
    "proxy.breaker",
    "proxy.retries",
    "proxy.outage",
    "proxy.health",
    "proxy.outline",
    "proxy.grant",
    "proxy.entry",
    "proxy.trip",
    "proxy.fitting",
    "proxy.admission",
    "proxy.worst",
    "proxy.upload",
    "proxy.dispatch",
    "proxy.departure",
    "proxy.relay",
    "proxy.heartbeat",
    "proxy.settlement",
    "proxy.accounts",
    "proxy.realtime",
    "proxy.pipeline",
    "proxy.recording",
    "proxy.records",
)
AIDS = (
    "proxy.deadlines",
    "proxy.tokens",
    "proxy.encodings",
    "proxy.counting",
    "proxy.allowance",
    "proxy.spenders",
    "proxy.memory",
    "proxy.overload",
    "proxy.descriptors",
    "proxy.guesses",
)
EDGES = (
    "proxy.activation",
    "proxy.edge",
    "proxy.rejections",
    "proxy.downstream",
    "proxy.admin",
    "proxy.pager",
    "proxy.lane",
    "proxy.page",
    "proxy.outage_page",
    "proxy.sinks",
    "proxy.standing",
    "proxy.courier",
    "proxy.vigil",
    "proxy.herald",
)
REPORTS = ("proxy.terminal", "proxy.export", "proxy.statement", "proxy.reconciliation")

# What of the house a module may import beside its own package: the longest name that fits decides. "proxy" alone is the version.
MAY: Mapping[str, tuple[str, ...]] = {
    "proxy": (),
    **dict.fromkeys(BASE, ()),
    "proxy.call": ("proxy.timeouts",),
    "proxy.wire": BASE,
    "proxy.policy": (*BASE, "proxy.wire"),
    "proxy.state": VALUES,
    "proxy.upstream": ("proxy.errors", "proxy.wire.names"),
    "proxy.telemetry": VALUES,
    **dict.fromkeys((*AIDS, *STEPS), (*PARTS, *AIDS, *STEPS)),
    **dict.fromkeys(EDGES, (*PARTS, *AIDS, *STEPS, *EDGES, "proxy")),
    "proxy.records": (*PARTS, "proxy.recording", "proxy.settings"),
    "proxy.pretend": ("proxy.clock",),
    "proxy.settings": ("proxy.policy.scalar", "proxy.policy.values"),
    "proxy.signals": (),
    "proxy.verbs": (),
    "proxy.reference": (*PARTS, "proxy.settings"),
    "proxy.injector": (*VALUES, "proxy.telemetry", "proxy.downstream", "proxy.settings", "proxy.signals", "proxy"),
    "proxy.terminal": (),
    "proxy.export": (),
    "proxy.statement": ("proxy.state.books", "proxy.state.totals"),
    "proxy.reconciliation": ("proxy.export", "proxy.state.books", "proxy.state.totals"),
    "proxy.app": (*PARTS, *AIDS, *STEPS, *EDGES, "proxy.upstream", "proxy.settings", "proxy.signals", "proxy.pretend", "proxy"),
    "proxy.commands": (
        *PARTS,
        *REPORTS,
        "proxy.app",
        "proxy.injector",
        "proxy.settings",
        "proxy.reference",
        "proxy.verbs",
        "policies",
        "proxy",
    ),
    "proxy.__main__": ("proxy.verbs", "proxy"),
    "policies": (
        "proxy.policy.contract",
        "proxy.policy.values",
        "proxy.policy.scalar",
        "proxy.call",
        "proxy.timeouts",
        "proxy.errors",
    ),
}

# Libraries, and who may know them. Every other one is for nobody.
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "aiohttp": ("proxy.courier", "proxy.pretend", "proxy.commands.demo"),
    "orjson": (
        "proxy.wire",
        "proxy.state",
        "proxy.telemetry",
        "proxy.sinks",
        "proxy.herald",
        "proxy.admin",
        "proxy.recording.statement",
        "proxy.injector.review",
        "proxy.pretend",
        "proxy.commands.demo",
    ),
    "cryptography": ("proxy.recording.seal",),
    "yaml": ("proxy.policy",),
    "httptools": ("proxy.upstream", "proxy.downstream"),
    "simdjson": ("proxy.wire.glance",),
    "websockets": ("proxy.realtime.frames",),
    "aiolimiter": ("proxy.lane",),
    "tiktoken": ("proxy.encodings",),
    "prometheus_client": ("proxy.telemetry.exposition",),
    "uvloop": ("proxy.app", "proxy.commands.demo"),
    # of the standard library
    "asyncio": (
        "proxy.state",
        "proxy.upstream",
        "proxy.telemetry",
        "proxy.pretend",
        "proxy.commands.demo",
        *AIDS,
        *STEPS,
        *EDGES,
        "proxy.signals",
        "proxy.injector.server",
        "proxy.injector.watch",
        "proxy.app",
    ),
    "sqlite3": ("proxy.state",),
    "genai_prices": ("policies.update_prices",),
    "argparse": ("proxy.commands", "proxy.__main__", "proxy.settings", "policies.update_prices"),
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in SOURCES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports name the whole way"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


def within(module: str, places: tuple[str, ...]) -> bool:
    """Whether a module is one of these places or in one. The package `proxy` itself holds nothing but the version."""
    return any(module == place or (place != "proxy" and module.startswith(place + ".")) for place in places)


def rule_for(module: str) -> str:
    """The entry of MAY that a module falls under."""
    return max((place for place in MAY if module == place or module.startswith(place + ".")), key=len)


def test_every_part_of_the_house_has_a_line_in_the_table() -> None:
    """And in proxy/README.md."""
    assert [module for module in MODULES if rule_for(module) == "proxy" != module] == []


def test_imports_point_up_the_map() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imported(path)
        if name.partition(".")[0] in ("proxy", "policies") and not within(name, (*MAY[rule_for(module)], rule_for(module)))
    ]
    assert wrong == []


def test_a_library_is_known_only_where_it_is_used_for_what_it_is_for() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        for name in imported(path)
        if not within(module, LIBRARIES.get(top := name.partition(".")[0], ()))
        and (top in LIBRARIES or top not in {*sys.stdlib_module_names, "proxy", "policies"})
    ]
    assert wrong == []


def test_nobody_imports_in_a_circle() -> None:
    graph = {module: {name for name in imported(path) if name in MODULES and name != module} for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_only_the_commands_know_the_app_and_the_kinds_of_policies() -> None:
    knowing = {module for module, path in MODULES.items() if {"proxy.app", "policies"} & set(imported(path))}
    assert {module for module in knowing if not within(module, ("proxy.commands", "policies"))} == set()


# What only one place may do, so that tests can hand in something else: names, and the modules that may use them.
ONLY: Mapping[str, tuple[str, ...]] = {
    "time.time": ("proxy.clock",),
    "time.monotonic": ("proxy.clock",),
    "time.monotonic_ns": ("proxy.clock",),
    "time.perf_counter": (),
    "datetime.now": (),
    "os.urandom": ("proxy.chance", "proxy.commands"),
    "os.environ": ("proxy.commands",),
    "os.getenv": (),
}


def test_time_chance_and_the_environment_are_passed_in() -> None:
    wrong = [
        f"{module}:{node.lineno}: {name}"
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in ONLY and not within(module, ONLY[name])
    ]
    assert wrong == []


def test_a_file_holds_one_noun() -> None:
    """One that outgrew that has a second noun in it."""
    too_long = {str(path.relative_to(ROOT)) for path in SOURCES if path.read_text("utf-8").count("\n") > MOST_LINES}
    drawers = {"util", "utils", "helper", "helpers", "manager", "managers", "common", "misc"}
    assert too_long == set()
    assert {path.stem for path in SOURCES if set(path.stem.split("_")) & drawers} == set()


def test_a_file_begins_with_what_lives_in_it() -> None:
    told = {module for module, path in MODULES.items() if ast.get_docstring(tree_of(path))}
    silent = {module for module in set(MODULES) - told if MODULES[module].read_text("utf-8")}
    assert silent <= {"proxy"}, "which holds nothing but the version"


def test_nothing_is_left_for_later() -> None:
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    paths = [path for part in ("proxy", "policies", "tests", "bench") for path in (ROOT / part).rglob("*.py")]
    assert [str(path) for path in paths if any(word in path.read_text("utf-8") for word in words)] == []


def caught(handler: ast.ExceptHandler) -> set[str]:
    """What an `except` catches, as written."""
    if handler.type is None:
        return {"BaseException"}
    return {ast.unparse(one) for one in (handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type])}


def test_whoever_catches_everything_raises_again_or_says_why_not() -> None:
    """A last line of defence says so beside its `except`."""
    wrong = []
    for module, path in MODULES.items():
        lines = path.read_text("utf-8").splitlines()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("suppress", "contextlib.suppress"):
                everything, again, why = {ast.unparse(a) for a in node.args} & {"Exception", "BaseException"}, False, False
            elif isinstance(node, ast.ExceptHandler):
                everything, again = caught(node) & {"Exception", "BaseException"}, isinstance(node.body[-1], ast.Raise)
                why = any("  # " in lines[line - 1] for line in (node.lineno, node.body[0].lineno))
            else:
                continue
            if everything and not again and not why:
                wrong.append(f"{module}:{node.lineno}")
    assert wrong == []


def test_a_cancellation_is_never_swallowed() -> None:
    wrong = [
        f"{module}:{node.lineno}"
        for module, path in MODULES.items()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ExceptHandler) and "asyncio.CancelledError" in caught(node)
        if not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    ]
    assert wrong == []
