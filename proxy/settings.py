"""The process's settings: TOLLHOUSE_* variables, overridden by flags. The only place that reads the environment.

The rule a reader could break: a setting is about this process (ports, folders, logging); what a call may do stands in the policy file.
"""

import argparse
import base64
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from proxy.policy.scalar import Wrong
from proxy.policy.values import base_url, byte_size

OPENAI = "https://api.openai.com/v1"


# Kubernetes sets these for a Service that is named like us; they are no settings.
_SERVICE = re.compile(r"_SERVICE_(?:HOST|PORT)|_PORT(?:_\d+_TCP.*)?\Z")


class SettingsError(Exception):
    """What is wrong with the settings, one line each."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. variable: environment; flag: on the command line, None = environment only; default: as text, None = none."""

    field: str
    variable: str
    flag: str | None
    default: str | None
    meaning: str
    parse: Callable[[str], Any]


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def shown(address: tuple[str, int]) -> str:
    """As `_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(flag: str, address: tuple[str, int], error: OSError) -> SettingsError:
    """The loop puts the address, in Python's spelling, before the system's words; a resolver has no words but its own."""
    reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
    return SettingsError([f"{flag}: cannot listen on {shown(address)}: {reason}"])


def _url(text: str) -> str:
    """As in the policy file."""
    try:
        return base_url(text)
    except Wrong:
        raise
    except ValueError:
        raise ValueError("expected a base URL, such as http://127.0.0.1:11434/v1") from None


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 86400:
        raise ValueError("expected seconds, more than 0 and at most 86400")
    return value


def _memory(text: str) -> int:
    try:
        size = byte_size(text)
    except ValueError:
        size = 0
    if size < 32 << 20:
        raise ValueError("expected a size of at least 32MiB, such as 256MiB")
    return size


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise ValueError("expected a whole number, or 0")
    return int(text)


def _sealing_key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ValueError("expected the base64 of 32 random bytes (`openssl rand -base64 32`)")
    return key


def _word(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"expected one of {', '.join(words)}")
        return text

    return parse


SETTINGS: tuple[Setting, ...] = (
    Setting("policy", "TOLLHOUSE_POLICY", "--policy", None, "Policy file; without one the shipped default.yaml applies.", Path),
    Setting(
        "upstream", "TOLLHOUSE_UPSTREAM", "--upstream", None, "Base URL of the only upstream, for a policy that names none.", _url
    ),
    Setting("listen", "TOLLHOUSE_LISTEN", "--listen", "127.0.0.1:8080", "Data port; :0 picks one.", _address),
    Setting(
        "admin_listen", "TOLLHOUSE_ADMIN_LISTEN", "--admin-listen", "127.0.0.1:9090", "Admin port: probes and metrics.", _address
    ),
    Setting("admin_token", "TOLLHOUSE_ADMIN_TOKEN", None, None, "Asked on the admin port of whoever is not on loopback.", str),
    Setting(
        "state_dir",
        "TOLLHOUSE_STATE_DIR",
        "--state-dir",
        None,
        "Folder of the SQLite files; by default $XDG_STATE_HOME/tollhouse.",
        Path,
    ),
    Setting(
        "log_level",
        "TOLLHOUSE_LOG_LEVEL",
        "--log-level",
        "info",
        "Least level that is logged: debug, info, warning, error.",
        _word("debug", "info", "warning", "error"),
    ),
    Setting(
        "log_format",
        "TOLLHOUSE_LOG_FORMAT",
        "--log-format",
        "json",
        "json, or console for a person.",
        _word("json", "console"),
    ),
    Setting("drain_s", "TOLLHOUSE_DRAIN_S", "--drain-s", "30", "Grace for running calls after SIGTERM, in seconds.", _seconds),
    Setting("header_s", "TOLLHOUSE_HEADER_S", None, "10", "How long a client may take to send a head, in seconds.", _seconds),
    Setting("body_s", "TOLLHOUSE_BODY_S", None, "60", "How long a client may take to send a body, in seconds.", _seconds),
    Setting(
        "memory_limit",
        "TOLLHOUSE_MEMORY_LIMIT",
        None,
        None,
        "Memory, such as 256MiB, near which calls are refused; the limits that the system sets count too.",
        _memory,
    ),
    Setting(
        "max_calls",
        "TOLLHOUSE_MAX_CALLS",
        None,
        "0",
        "Calls that may run at once; 0 = as many as there are descriptors for.",
        _count,
    ),
    Setting(
        "max_connections",
        "TOLLHOUSE_MAX_CONNECTIONS",
        None,
        "0",
        "Connections of clients; 0 = as many as there are descriptors for.",
        _count,
    ),
    Setting(
        "record_key",
        "TOLLHOUSE_RECORD_KEY",
        None,
        None,
        "What seals recordings on the disk, 32 bytes in base64; without one they are in memory only.",
        _sealing_key,
    ),
)

_LOG_SETTINGS = tuple(setting for setting in SETTINGS if setting.field in ("log_level", "log_format"))
INJECT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        "listen", "TOLLHOUSE_INJECT_LISTEN", "--listen", "0.0.0.0:8443", "Port of the webhook, over TLS; :0 picks one.", _address
    ),
    Setting("tls_cert", "TOLLHOUSE_INJECT_TLS_CERT", "--tls-cert", None, "File of its certificate chain, in PEM.", Path),
    Setting("tls_key", "TOLLHOUSE_INJECT_TLS_KEY", "--tls-key", None, "File of the certificate's key, in PEM.", Path),
    Setting("sidecar", "TOLLHOUSE_INJECT_SIDECAR", "--sidecar", None, "File of what is put into pods.", Path),
)


@dataclass(frozen=True, slots=True)
class InjectSettings:
    """What `tollhouse inject` is told, parsed."""

    listen: tuple[str, int]
    tls_cert: Path
    tls_key: Path
    sidecar: Path
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["json", "console"]


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of `serve`, parsed. env: the whole environment, for references of the policy file. repr shows no secret."""

    policy: Path | None
    upstream: str | None
    listen: tuple[str, int]
    admin_listen: tuple[str, int]
    admin_token: str | None = field(repr=False)
    state_dir: Path
    log_level: Literal["debug", "info", "warning", "error"]
    log_format: Literal["json", "console"]
    drain_s: float
    header_s: float
    body_s: float
    memory_limit: int | None
    max_calls: int
    max_connections: int
    record_key: bytes | None = field(repr=False)
    openai_key: str | None = field(repr=False)
    env: Mapping[str, str] = field(repr=False)

    @property
    def upstream_url(self) -> str | None:
        """Where calls go when the policy file names no upstream: the one given, or OpenAI's API when there is a key for it."""
        return self.upstream or (OPENAI if self.openai_key else None)


def add_flags(parser: argparse.ArgumentParser, settings: tuple[Setting, ...] = SETTINGS) -> None:
    """The flags of a verb, from its table."""
    for setting in settings:
        if setting.flag is not None:
            told = f" (default: {setting.default})" if setting.default else ""
            parser.add_argument(
                setting.flag, dest=setting.field, metavar="VALUE", help=f"{setting.meaning}{told} [{setting.variable}]"
            )


def read_inject_settings(env: Mapping[str, str], flags: Mapping[str, str | None]) -> InjectSettings:
    """As `read_settings`, for `inject`. None of its files may be left out."""
    values, mistakes = _read((*INJECT_SETTINGS, *_LOG_SETTINGS), env, flags)
    mistakes += [
        f"{setting.flag}: name a file, here or as {setting.variable}"
        for setting in INJECT_SETTINGS
        if setting.field in values and values[setting.field] is None
    ]
    if mistakes:
        raise SettingsError(mistakes)
    return InjectSettings(**values)


def read_settings(env: Mapping[str, str], flags: Mapping[str, str | None]) -> Settings:
    """The settings. flags: field → text, None where a flag was not given; flags win. Errors: SettingsError with every mistake."""
    values, mistakes = _read(SETTINGS, env, flags)
    key = env.get("OPENAI_API_KEY", "")
    if not key.isascii() or not key.isprintable() or " " in key:  # often the line break at the end of a mounted secret
        mistakes.append("OPENAI_API_KEY: expected a key in ASCII, without spaces and line breaks")
    if mistakes:
        raise SettingsError(mistakes)
    if values["state_dir"] is None:
        base = env.get("XDG_STATE_HOME")
        values["state_dir"] = (Path(base) if base else Path(env.get("HOME") or "/tmp") / ".local" / "state") / "tollhouse"  # noqa: S108
    return Settings(**values, openai_key=key or None, env=env)


def _read(table: tuple[Setting, ...], env: Mapping[str, str], flags: Mapping[str, str | None]) -> tuple[dict[str, Any], list[str]]:
    """Values by field, None where there is none, and the mistakes. A variable that belongs to another verb is none."""
    values: dict[str, Any] = {}
    mistakes: list[str] = []
    for setting in table:
        flagged = flags.get(setting.field)
        text = flagged if flagged is not None else env.get(setting.variable) or setting.default
        if text is None:
            values[setting.field] = None
            continue
        try:
            values[setting.field] = setting.parse(text)
        except ValueError as error:
            mistakes.append(f"{setting.flag if flagged is not None else setting.variable}: {error}")
    known = {setting.variable for setting in (*SETTINGS, *INJECT_SETTINGS)}
    mistakes += [
        f"{name}: there is no such setting"
        for name in sorted(env)
        if name.startswith("TOLLHOUSE_") and name not in known and not _SERVICE.search(name)
    ]
    return values, mistakes
