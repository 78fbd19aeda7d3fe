"""The process's settings: where each comes from, which wins, and every mistake in words."""

from pathlib import Path
from typing import Any

import pytest

from proxy.settings import INJECT_SETTINGS, OPENAI, SETTINGS, SettingsError, read_inject_settings, read_settings

HOME = {"HOME": "/home/ada"}


def mistakes(env: dict[str, str], flags: dict[str, str | None] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as error:
        read_settings({**HOME, **env}, flags or {})
    return error.value.mistakes


def test_without_anything_it_stands_on_loopback() -> None:
    settings = read_settings(HOME, {})
    assert (settings.listen, settings.admin_listen) == (("127.0.0.1", 8080), ("127.0.0.1", 9090))
    assert (settings.policy, settings.upstream_url, settings.admin_token) == (None, None, None)
    assert settings.state_dir == Path("/home/ada/.local/state/tollhouse")
    assert (settings.log_level, settings.log_format) == ("info", "json")
    assert (settings.drain_s, settings.header_s, settings.body_s) == (30.0, 10.0, 60.0)


def test_a_flag_wins_over_its_variable_and_a_variable_over_the_default() -> None:
    env = {**HOME, "TOLLHOUSE_LISTEN": "127.0.0.1:1", "TOLLHOUSE_DRAIN_S": "5"}
    settings = read_settings(env, {"listen": "127.0.0.1:2", "drain_s": None})
    assert settings.listen == ("127.0.0.1", 2)
    assert settings.drain_s == 5.0


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    settings = read_settings({**HOME, "TOLLHOUSE_LISTEN": "", "OPENAI_API_KEY": "", "XDG_STATE_HOME": ""}, {})
    assert (settings.listen, settings.upstream_url) == (("127.0.0.1", 8080), None)
    assert settings.state_dir == Path("/home/ada/.local/state/tollhouse")


@pytest.mark.parametrize(
    ("field", "variable", "text", "value"),
    [
        ("listen", "TOLLHOUSE_LISTEN", "0.0.0.0:0", ("0.0.0.0", 0)),
        ("listen", "TOLLHOUSE_LISTEN", ":8081", ("127.0.0.1", 8081)),
        ("listen", "TOLLHOUSE_LISTEN", "8081", ("127.0.0.1", 8081)),
        ("listen", "TOLLHOUSE_LISTEN", "[::1]:8081", ("::1", 8081)),
        ("admin_listen", "TOLLHOUSE_ADMIN_LISTEN", "pod.local:65535", ("pod.local", 65535)),
        ("upstream", "TOLLHOUSE_UPSTREAM", "http://127.0.0.1:11434/v1/", "http://127.0.0.1:11434/v1"),
        ("policy", "TOLLHOUSE_POLICY", "rules/policy.yaml", Path("rules/policy.yaml")),
        ("state_dir", "TOLLHOUSE_STATE_DIR", "/var/lib/tollhouse", Path("/var/lib/tollhouse")),
        ("state_dir", "XDG_STATE_HOME", "/state", Path("/state/tollhouse")),
        ("admin_token", "TOLLHOUSE_ADMIN_TOKEN", "secret", "secret"),
        ("log_level", "TOLLHOUSE_LOG_LEVEL", "debug", "debug"),
        ("log_format", "TOLLHOUSE_LOG_FORMAT", "console", "console"),
        ("drain_s", "TOLLHOUSE_DRAIN_S", "0.5", 0.5),
        ("upstream_url", "OPENAI_API_KEY", "sk-x", OPENAI),
    ],
)
def test_what_a_variable_means(field: str, variable: str, text: str, value: Any) -> None:
    assert getattr(read_settings({**HOME, variable: text}, {}), field) == value


def test_an_upstream_that_is_given_wins_over_the_one_that_a_key_suggests() -> None:
    settings = read_settings({**HOME, "OPENAI_API_KEY": "sk-x", "TOLLHOUSE_UPSTREAM": "http://127.0.0.1:1/v1"}, {})
    assert (settings.upstream_url, settings.openai_key) == ("http://127.0.0.1:1/v1", "sk-x")


ADDRESS = "expected HOST:PORT, such as 127.0.0.1:8080"
URL = "expected a base URL, such as http://127.0.0.1:11434/v1"
SECONDS = "expected seconds, more than 0 and at most 86400"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("TOLLHOUSE_LISTEN", "127.0.0.1", ADDRESS),
        ("TOLLHOUSE_LISTEN", "127.0.0.1:65536", ADDRESS),
        ("TOLLHOUSE_LISTEN", "127.0.0.1:-1", ADDRESS),
        ("TOLLHOUSE_LISTEN", "127.0.0.1:８０", ADDRESS),
        ("TOLLHOUSE_ADMIN_LISTEN", "127.0.0.1:http", ADDRESS),
        ("TOLLHOUSE_UPSTREAM", "localhost:8000/v1", URL),
        ("TOLLHOUSE_UPSTREAM", "ftp://localhost/v1", URL),
        ("TOLLHOUSE_UPSTREAM", "http:///v1", URL),
        ("TOLLHOUSE_UPSTREAM", "http://h:99999/v1", URL),
        ("TOLLHOUSE_UPSTREAM", "http://user:password@h/v1", "credentials do not belong in a URL"),
        ("TOLLHOUSE_UPSTREAM", "http://h/v1?key=1", "a base URL has no ?query"),
        (
            "TOLLHOUSE_UPSTREAM",
            "http://h/v1/chat/completions",
            "a base URL ends before the path of a call, as in https://api.openai.com/v1",
        ),
        ("OPENAI_API_KEY", "sk-x\n", "expected a key in ASCII, without spaces and line breaks"),
        ("OPENAI_API_KEY", "sk–x", "expected a key in ASCII, without spaces and line breaks"),
        ("TOLLHOUSE_DRAIN_S", "30s", SECONDS),
        ("TOLLHOUSE_DRAIN_S", "0", SECONDS),
        ("TOLLHOUSE_DRAIN_S", "-1", SECONDS),
        ("TOLLHOUSE_DRAIN_S", "nan", SECONDS),
        ("TOLLHOUSE_HEADER_S", "inf", SECONDS),
        ("TOLLHOUSE_BODY_S", "1e9", SECONDS),
        ("TOLLHOUSE_MEMORY_LIMIT", "128", "expected a size of at least 32MiB, such as 256MiB"),
        ("TOLLHOUSE_MEMORY_LIMIT", "1MiB", "expected a size of at least 32MiB, such as 256MiB"),
        ("TOLLHOUSE_MAX_CALLS", "-1", "expected a whole number, or 0"),
        ("TOLLHOUSE_MAX_CONNECTIONS", "many", "expected a whole number, or 0"),
        ("TOLLHOUSE_LOG_LEVEL", "INFO", "expected one of debug, info, warning, error"),
        ("TOLLHOUSE_LOG_FORMAT", "text", "expected one of json, console"),
        ("TOLLHOUSE_LISTN", "x", "there is no such setting"),
    ],
)
def test_a_mistake_names_its_variable_and_what_was_expected(variable: str, text: str, expected: str) -> None:
    assert mistakes({variable: text}) == [f"{variable}: {expected}"]


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    assert mistakes({"TOLLHOUSE_LISTEN": "127.0.0.1:1"}, {"listen": "x"}) == [f"--listen: {ADDRESS}"]


def test_every_mistake_is_told_at_once() -> None:
    found = mistakes({"TOLLHOUSE_LISTEN": "x", "TOLLHOUSE_DRAIN_S": "x", "TOLLHOUSE_FOO": "x", "TOLLHOUSE_BAR": "x"})
    assert [mistake.partition(":")[0] for mistake in found] == [
        "TOLLHOUSE_LISTEN",
        "TOLLHOUSE_DRAIN_S",
        "TOLLHOUSE_BAR",
        "TOLLHOUSE_FOO",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "TOLLHOUSE_SERVICE_HOST",
        "TOLLHOUSE_SERVICE_PORT",
        "TOLLHOUSE_SERVICE_PORT_HTTP",
        "TOLLHOUSE_PORT",
        "TOLLHOUSE_PORT_80_TCP_ADDR",
    ],
)
def test_what_kubernetes_sets_for_a_service_of_our_name_is_no_mistake(name: str) -> None:
    assert read_settings({**HOME, name: "tcp://10.0.0.1:80"}, {}).listen == ("127.0.0.1", 8080)


def test_what_could_be_a_secret_is_not_shown() -> None:
    canaries = {"TOLLHOUSE_ADMIN_TOKEN": "canary-token", "OPENAI_API_KEY": "canary-key", "OTHER": "canary-other"}
    assert "canary" not in repr(read_settings({**HOME, **canaries}, {}))
    assert "canary" not in str(mistakes({**canaries, "TOLLHOUSE_UPSTREAM": "http://user:canary@/v1", "TOLLHOUSE_LISTEN": "canary"}))


def test_every_setting_has_a_variable_of_ours_and_a_line_of_documentation() -> None:
    assert len({s.field for s in SETTINGS}) == len({s.variable for s in SETTINGS}) == len(SETTINGS)
    for setting in SETTINGS:
        assert setting.variable == f"TOLLHOUSE_{setting.field.upper()}"
        assert setting.flag in (None, "--" + setting.field.replace("_", "-"))
        assert setting.meaning.endswith(".")


def test_every_setting_of_the_injector_has_a_name_of_its_own() -> None:
    assert {s.variable for s in INJECT_SETTINGS} & {s.variable for s in SETTINGS} == set()
    for setting in INJECT_SETTINGS:
        assert setting.variable == f"TOLLHOUSE_INJECT_{setting.field.upper()}"
        assert setting.flag == "--" + setting.field.replace("_", "-")
        assert setting.meaning.endswith(".")


FILES: dict[str, str | None] = {"tls_cert": "c", "tls_key": "k", "sidecar": "s"}


def test_the_injector_reads_its_own_settings_and_how_to_log() -> None:
    env = {"TOLLHOUSE_LOG_LEVEL": "debug", "TOLLHOUSE_LISTEN": "another verb's", "TOLLHOUSE_INJECT_SIDECAR": "/etc/s"}
    settings = read_inject_settings(env, FILES | {"sidecar": None})
    assert (settings.listen, settings.log_level, settings.sidecar) == (("0.0.0.0", 8443), "debug", Path("/etc/s"))
    assert read_settings({"TOLLHOUSE_INJECT_LISTEN": "another verb's"}, {}).listen == ("127.0.0.1", 8080)


def test_a_misspelt_setting_of_the_injector_is_told() -> None:
    with pytest.raises(SettingsError) as error:
        read_inject_settings({"TOLLHOUSE_INJECT_SIDECARS": "s", "TOLLHOUSE_INJECTOR_SERVICE_HOST": "10.0.0.1"}, FILES)
    assert error.value.mistakes == ["TOLLHOUSE_INJECT_SIDECARS: there is no such setting"]


def test_what_bounds_the_process_is_a_size_and_two_counts() -> None:
    env = {"TOLLHOUSE_MEMORY_LIMIT": "2GiB", "TOLLHOUSE_MAX_CALLS": "100"}
    settings = read_settings(env, {})
    assert (settings.memory_limit, settings.max_calls, settings.max_connections) == (2 << 30, 100, 0)
    assert read_settings({}, {}).memory_limit is None
