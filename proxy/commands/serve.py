"""`tollhouse serve`: run the proxy until a signal."""

import argparse
import os
import sys

from policies import KINDS
from proxy import __version__
from proxy.app import App, run_app
from proxy.settings import OPENAI, SETTINGS, Settings, SettingsError, add_flags, read_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    parser.add_argument(
        "--pretend", action="store_true", help="put a pretend upstream behind the proxy, for a policy that names none"
    )


def run(arguments: argparse.Namespace) -> int:
    flags = {s.field: getattr(arguments, s.field) for s in SETTINGS if s.flag is not None}
    try:
        settings = read_settings(os.environ, flags)
    except SettingsError as error:
        print(*(f"tollhouse: {mistake}" for mistake in error.mistakes), sep="\n", file=sys.stderr)
        return 2
    if settings.policy is None and settings.upstream_url is None and not arguments.pretend:
        print("tollhouse: no upstream: set OPENAI_API_KEY, name one with --upstream, or try it with --pretend", file=sys.stderr)
        return 2

    def greet(app: App) -> None:
        if settings.log_format == "console":
            print(greeting(settings, app, pretend=arguments.pretend), flush=True)

    return run_app(settings, kinds=KINDS, pretend=arguments.pretend, on_ready=greet)


def greeting(settings: Settings, app: App, *, pretend: bool) -> str:
    """What a person who starts it wants to see: where it is, and a call that works as printed."""
    data, admin = (f"http://{_host(host)}:{port}" for host, port in (app.data_address, app.admin_address))
    names = ", ".join(app.shelf.current.upstreams)
    behind = "a pretend upstream that comes with it (no model is asked)" if pretend else f"the upstream {names}"
    if not pretend and settings.upstream_url == OPENAI and settings.policy is None:
        behind = "OpenAI's API"
    return f"""
Tollhouse {__version__}, in front of {behind}

  an app:   export OPENAI_BASE_URL={data}/v1
  a call:   curl {data}/v1/chat/completions -H 'content-type: application/json' \\
              -d '{{"model": "gpt-4.1-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  metrics:  curl {admin}/metrics
"""


def _host(host: str) -> str:
    """A host that can be called: a wildcard address is reached on loopback."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
