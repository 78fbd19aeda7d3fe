"""A target of the fuzzer inside a row: some inputs in the short form, and for a while in the long one."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.faults.rig import Rig
from tests.fuzz.blind import tried

_ROOT = Path(__file__).parents[2]
_SOME = 500


async def fuzzed(name: str, rig: Rig, *, seconds: int) -> str:
    """What was tried, in words. Errors: whatever an input broke."""
    if rig.short:
        count = await asyncio.to_thread(tried, name, _SOME)  # in a thread, as some targets have a loop of their own
        return f"{count:,} inputs: nothing broke"
    command = [sys.executable, "-m", "tests.fuzz.run", name, "--blind", "--seconds", str(seconds)]
    run = await asyncio.to_thread(subprocess.run, command, cwd=_ROOT, capture_output=True, encoding="utf-8", check=False)
    assert run.returncode == 0, run.stdout[-500:] + run.stderr[-2000:]
    return run.stdout.strip().splitlines()[0].removeprefix(name).strip()
