"""`tollhouse check FILE…`: every mistake with its place, and what looks unintended. Mistakes fail it, lints do not."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from policies import KINDS
from proxy.policy.compile import compile_text
from proxy.policy.document import PolicyFileError
from proxy.policy.lints import lints
from proxy.policy.policyset import UpstreamConfig

# A file may leave its upstream to the settings; for checking it, any will do.
_ANY_UPSTREAM = UpstreamConfig(base_url="http://127.0.0.1/v1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="policy files")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: one object, for CI (default: text)")


def run(arguments: argparse.Namespace) -> int:
    results = [_check(name) for name in arguments.files]
    if arguments.format == "json":
        print(json.dumps({"files": results}, indent=2))
    else:
        for result in results:
            print(*(result["mistakes"] + [f"{lint} (lint)" for lint in result["lints"]]), sep="\n", end="")
            if result["mistakes"] or result["lints"]:
                print()
            if not result["mistakes"]:
                print(f"{result['file']}: ok, version {result['version']}")
    return 1 if any(result["mistakes"] for result in results) else 0


def _check(name: str) -> dict[str, Any]:
    """What is to be said of one file: mistakes and lints as `file:line:column: path: …`, and its version when it has none."""
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        return {"file": name, "version": None, "mistakes": [f"{name}: cannot be read: {error.strerror}"], "lints": []}
    try:
        policies = compile_text(data, file=name, kinds=KINDS, env=os.environ, upstream=_ANY_UPSTREAM)
    except PolicyFileError as error:
        return {"file": name, "version": None, "mistakes": [str(m) for m in error.mistakes], "lints": []}
    return {"file": name, "version": policies.version, "mistakes": [], "lints": [str(lint) for lint in lints(policies)]}
