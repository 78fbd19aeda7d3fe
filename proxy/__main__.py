"""The `tollhouse` command: a table of verbs. A verb's module is imported when it is asked for, so that a probe starts quickly."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from proxy import __version__
from proxy.verbs import VERBS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb. Returns the exit code: 0 done, 1 no, 2 wrong usage or a mistake of the operator."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    parser = argparse.ArgumentParser(
        prog="tollhouse" if verb is None else f"tollhouse {verb}",
        description="A reverse-proxy sidecar for LLM APIs." if verb is None else VERBS[verb][0].upper() + VERBS[verb][1:] + ".",
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
