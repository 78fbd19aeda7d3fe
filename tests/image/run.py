"""`make image-test`: every scene against every target, in real containers.

    python -m tests.image.run [TARGET ...] [--only SCENE ...]

The rule a reader could break: it ends with 0 only if each scene was played and held.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.fakes import FakeUpstream
from tests.image.build import TARGETS, tag
from tests.image.engine import Engine, Missing, found
from tests.image.scenes import SCENES, Stage

_SCENE_S = 180


async def played(scene: Callable[[Stage], Awaitable[str]], engine: Engine, image: str) -> bool:
    name = scene.__name__.replace("_", " ")
    with tempfile.TemporaryDirectory(prefix="tollhouse-image-") as folder:
        os.chmod(folder, 0o755)  # the container's user looks into it
        try:
            async with asyncio.timeout(_SCENE_S), FakeUpstream() as upstream:
                said = await scene(Stage(engine, image, upstream, Path(folder)))
        except Exception:  # one that fails does not keep the others from being played
            print(f"  FAILED  {name}", flush=True)
            traceback.print_exc(file=sys.stdout)
            return False
    print(f"  ok      {name}: {said}", flush=True)
    return True


async def main() -> int:
    parser = argparse.ArgumentParser(prog="make image-test")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"by default {' and '.join(TARGETS)}")
    parser.add_argument("--only", nargs="+", metavar="SCENE", default=[], help="names of scenes, as functions")
    arguments = parser.parse_args()
    engine = found()
    held = []
    for target in arguments.targets or TARGETS:
        image = tag(target)
        if engine.attempt("image", "inspect", image).returncode != 0:
            raise Missing(f"there is no {image}: make image")
        print(f"{image}, with {engine.program}")
        scenes = [scene for scene in SCENES if not arguments.only or scene.__name__ in arguments.only]
        held += [await played(scene, engine, image) for scene in scenes]
    print(f"{sum(held)} of {len(held)} scenes held")
    return 0 if held and all(held) else 1


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
