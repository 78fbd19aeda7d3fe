"""The reference part of the README, made from the tables that the program itself uses, so that neither can forget the other."""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from proxy.errors import CODES
from proxy.policy.contract import Clause
from proxy.settings import INJECT_SETTINGS, SETTINGS
from proxy.telemetry.declared import DECLARED
from proxy.telemetry.logs import EVENTS, FIELDS
from proxy.wire.surfaces import SOCKETS, SURFACES, TURN

BEGIN, END = "<!-- reference: made by `tollhouse schema --markdown` -->", "<!-- end of reference -->"


def reference(kinds: tuple[type[Clause], ...], verbs: Mapping[str, str]) -> str:
    """Markdown, from BEGIN to END, with a table each of verbs, settings, paths, clauses, error codes, metrics, events and fields."""
    sections = (
        ("Verbs", ("verb", "does"), ((f"`tollhouse {verb}`", does) for verb, does in verbs.items())),
        (
            "Settings",
            ("variable", "flag", "default", "meaning"),
            [*map(_setting, SETTINGS), *map(_inject_setting, INJECT_SETTINGS)],
        ),
        (
            "Paths with a meter",
            ("path", "methods", "output caps", "streams"),
            [*map(_surface, SURFACES), *map(_socket, SOCKETS.values())],
        ),
        ("Clauses", ("clause", "field", "default", "meaning"), (row for kind in kinds for row in _clause(kind))),
        ("Error codes", ("code", "status", "type", "meaning"), (_code(code) for code in CODES)),
        ("Metrics", ("metric", "type", "labels", "meaning"), (_metric(name) for name in DECLARED)),
        ("Log events", ("event", "meaning"), ((f"`{name}`", meaning) for name, meaning in EVENTS.items())),
        ("Log fields", ("field", "meaning"), ((f"`{name}`", f.meaning) for name, f in FIELDS.items())),
    )
    tables = [f"### {title}\n\n{_table(head, rows)}" for title, head, rows in sections]
    return "\n\n".join((BEGIN, *tables, END))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _setting(setting: Any) -> tuple[str, ...]:
    flag = f"`{setting.flag}`" if setting.flag else ""
    return f"`{setting.variable}`", flag, f"`{setting.default}`" if setting.default else "", setting.meaning


def _inject_setting(setting: Any) -> tuple[str, ...]:
    """Its variable stands among the others; its flag is another verb's."""
    variable, flag, default, meaning = _setting(setting)
    return variable, f"{flag} of `inject`", default, meaning


def _surface(surface: Any) -> tuple[str, ...]:
    caps = ", ".join(f"`{cap}`" for cap in surface.caps)
    return f"`{surface.path}`", ", ".join(surface.methods), caps, "yes" if surface.streams else ""


def _socket(surface: Any) -> tuple[str, ...]:
    """A path whose output caps stand in its events."""
    same = [s for s in SURFACES if s.path == surface.path] or [TURN]
    caps = ", ".join(f"`{cap}`" for cap in dict.fromkeys(same[0].caps))
    return f"`{surface.path}`", "GET, as a WebSocket", caps, "yes"


def _clause(kind: type[Clause]) -> Iterable[tuple[str, ...]]:
    for field in fields(kind):
        doc = field.metadata.get("doc")
        if doc is not None:
            yield f"`{kind.clause}`", f"`{field.name.rstrip('_')}`", _default(field), doc


def _default(field: Any) -> str:
    value = field.default_factory() if callable(field.default_factory) else field.default
    if value in ((), {}, None) or "MISSING" in repr(value):
        return ""
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown}`"


def _code(code: str) -> tuple[str, ...]:
    known = CODES[code]
    return f"`{code}`", str(known.status), f"`{known.type}`", known.meaning


def _metric(name: str) -> tuple[str, ...]:
    declared = DECLARED[name]
    return f"`{name}`", declared.type, ", ".join(f"`{label}`" for label in declared.labels), declared.help
