"""The `tollhouse` command: a table of verbs. A verb's module is imported when it is asked for, so that a probe starts quickly."""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence

from proxy import __version__

VERBS: Mapping[str, str] = {
    "serve": "run the proxy",
    "demo": "a pretend upstream, the proxy, and a guided tour of real calls through it",
    "check": "report every mistake in policy files, and what looks unintended",
    "keys": "make a key: `tollhouse keys new ID`",
    "schema": "print the JSON Schema of the policy file, for editors",
    "healthcheck": "ask a running proxy whether it is healthy; exit 0 or 1",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 no, 2 wrong usage or a mistake of the operator."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    parser = argparse.ArgumentParser(
        prog="tollhouse" if verb is None else f"tollhouse {verb}",
        description="A reverse-proxy sidecar for LLM APIs." if verb is None else VERBS[verb].capitalize() + ".",
    )
    if verb is None:
        parser.add_argument("--version", action="version", version=f"tollhouse {__version__}")
        verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
        for name, does in VERBS.items():
            verbs.add_parser(name, help=does)
        parser.parse_args(arguments)
        return 2
    command = importlib.import_module(f"proxy.commands.{verb}")
    command.add_arguments(parser)
    return int(command.run(parser.parse_args(arguments[1:])))


if __name__ == "__main__":
    sys.exit(main())
