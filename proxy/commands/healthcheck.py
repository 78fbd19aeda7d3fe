"""`tollhouse healthcheck`: ask the admin port, for images without a shell or curl. Imports nothing heavy: it runs every few seconds."""

import argparse
import http.client
import os
import sys

from proxy.settings import SettingsError, read_settings

_PATIENCE_S = 3.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ready", action="store_true", help="ask whether it takes calls, not only whether it lives")


def run(arguments: argparse.Namespace) -> int:
    try:
        host, port = read_settings(os.environ, {}).admin_listen
    except SettingsError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return 1
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    connection = http.client.HTTPConnection(reached, port, timeout=_PATIENCE_S)
    try:
        connection.request("GET", "/readyz" if arguments.ready else "/healthz")
        answer = connection.getresponse()
        print(answer.read().decode("utf-8", "replace").strip())
        return 0 if answer.status == 200 else 1
    except (OSError, http.client.HTTPException) as error:
        print(f"no answer on {host}:{port} ({type(error).__name__})", file=sys.stderr)
        return 1
    finally:
        connection.close()
