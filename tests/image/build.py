"""`make image`: both targets of the committed Dockerfile, and what they weigh.

    python -m tests.image.build [--bases public|stand-in] [--lint HADOLINT]
    python -m tests.image.build --for-podman      the slim one, in Podman's store, unless it is there: for `make chart-test`

Tags: tollhouse:slim and tollhouse:small, and the version. Unpacked size is what the engine counts: the files of all layers. The size to
pull is that of the layers, packed by gzip; registries say the same to a few percent.
"""

import argparse
import subprocess
import time
import tomllib
import zlib

from tests.image.bases import named, provide
from tests.image.engine import ROOT, Engine, Missing, found, say

TARGETS = {"slim": "SLIM", "small": "SMALL"}  # target → the argument with its base
MOST_MB = 100


def tag(target: str) -> str:
    return f"localhost/tollhouse:{target}"


def version() -> str:
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"])


def _versioned(target: str) -> str:
    return f"localhost/tollhouse:{version()}{'' if target == 'slim' else '-' + target}"


def packed(engine: Engine, image: str) -> int:
    """Bytes of an image's layers, packed by gzip."""
    gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
    return sum(len(gzip.compress(piece)) for piece in engine.saved(image)) + len(gzip.flush())


def main() -> int:
    parser = argparse.ArgumentParser(prog="make image")
    parser.add_argument(
        "--bases", choices=("public", "stand-in"), help="by default public ones, and stand-ins where no registry answers"
    )
    parser.add_argument("--lint", metavar="HADOLINT", help="a hadolint to look over the Dockerfile first")
    parser.add_argument("--for-podman", action="store_true", help="the slim one alone, in Podman's store, unless it is there")
    arguments = parser.parse_args()
    if arguments.lint:
        subprocess.run([arguments.lint, "--failure-threshold", "style", str(ROOT / "Dockerfile")], check=True)
        say("hadolint: nothing to say")
    engine = found(podman=arguments.for_podman)
    targets = {"slim": TARGETS["slim"]} if arguments.for_podman else TARGETS
    if arguments.for_podman and engine.attempt("image", "inspect", _versioned("slim")).returncode == 0:
        return 0
    stands = provide(engine, public=None if arguments.bases is None else arguments.bases == "public")
    rows, too_large = [], []
    for target, base in targets.items():
        began = time.monotonic()
        engine.build(target=target, tag=tag(target), offline=stands[base])
        took_s = time.monotonic() - began
        engine.call("tag", tag(target), _versioned(target))
        unpacked, under = engine.inspect(tag(target))["Size"], engine.inspect(named()[base])["Size"]
        to_pull = packed(engine, tag(target))
        rows.append(
            (target, unpacked / 1e6, (unpacked - under) / 1e6, to_pull / 1e6, took_s, "stand-in" if stands[base] else "public")
        )
        if to_pull > MOST_MB * 1e6:
            too_large.append(target)
    print(f"\n{'target':8} {'unpacked':>10} {'of it ours':>11} {'to pull':>9} {'built in':>9}   base")
    for name, whole, ours, pull, took_s, kind in rows:
        print(f"{name:8} {whole:7.1f} MB {ours:8.1f} MB {pull:6.1f} MB {took_s:7.1f} s   {kind}: {named()[TARGETS[name]]}")
    if too_large:
        raise Missing(f"more than {MOST_MB} MB to pull: {', '.join(too_large)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
