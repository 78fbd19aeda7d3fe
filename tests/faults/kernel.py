"""What the kernel holds for a process's connections.

The rule a reader could break: connections are told apart by the ports of one side, for both sides of each are on this machine.
"""

import re
import subprocess
from pathlib import Path

_SKMEM = re.compile(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),")


def buffered(*, local: int = 0, remote: int = 0) -> tuple[int, int]:
    """Connections with this local or remote port, and the bytes in their buffers, sent and received."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]]
    count = total = 0
    for line in lines:
        ports = int(line[1].partition(":")[2], 16), int(line[2].partition(":")[2], 16)
        if line[3] != "0A" and ((local and ports[0] == local) or (remote and ports[1] == remote)):  # 0A listens
            sent, _, received = line[4].partition(":")
            count += 1
            total += int(sent, 16) + int(received, 16)
    return count, total


def memory(*, local: int = 0, remote: int = 0) -> int:
    """Bytes of kernel memory of these connections, with its overhead where `ss` can tell; else what is in their buffers."""
    side = f"sport = :{local}" if local else f"dport = :{remote}"
    try:
        said = subprocess.run(["ss", "-tmnaOH", f"( {side} )"], capture_output=True, encoding="utf-8", check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return buffered(local=local, remote=remote)[1]
    return sum(sum(map(int, found)) for found in _SKMEM.findall(said))
