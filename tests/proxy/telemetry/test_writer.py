import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.telemetry.writer import LineWriter


def told(lost: int) -> bytes:
    return f"lost {lost}\n".encode()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read_fd, write_fd = os.pipe()
    yield read_fd, write_fd
    for fd in (read_fd, write_fd):
        try:
            os.close(fd)
        except OSError:
            pass


def fill(fd: int) -> int:
    """Put into a pipe all that it holds; how many bytes that was."""
    os.set_blocking(fd, False)
    filled = 0
    try:
        while True:
            filled += os.write(fd, b"." * 4096)
    except BlockingIOError:
        os.set_blocking(fd, True)
        return filled


class Reader(threading.Thread):
    """Reads a pipe to its end."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.data = b""
        self.start()

    def run(self) -> None:
        while chunk := os.read(self.fd, 65536):
            self.data += chunk


def test_lines_are_written_in_order_and_close_writes_what_waits(tmp_path: Path) -> None:
    lines = [f"{n}\n".encode() for n in range(2000)]
    with (tmp_path / "log").open("wb") as file:
        writer = LineWriter(file.fileno(), most_lines=4096, gather_s=0, tell=told)
        for line in lines:
            writer.put(line)
        writer.close(within_s=20)
    assert (tmp_path / "log").read_bytes() == b"".join(lines)
    assert writer.dropped == 0


@pytest.mark.parametrize("blocking", [True, False])
def test_a_stuck_reader_holds_nobody_up_and_learns_later_how_much_it_missed(pipe: tuple[int, int], blocking: bool) -> None:
    read_fd, write_fd = pipe
    stuffing = fill(write_fd)
    os.set_blocking(write_fd, blocking)
    writer = LineWriter(write_fd, most_lines=8, gather_s=0, tell=told)
    for n in range(2000):
        writer.put(f"{n}\n".encode())
    # At most 512 lines in the writer's hands and 8 in the queue; all the others were turned away.
    dropped = writer.dropped
    assert dropped >= 2000 - 512 - 8
    reader = Reader(read_fd)
    writer.close(within_s=20)
    os.close(write_fd)
    reader.join()
    lines = reader.data[stuffing:].splitlines()
    assert writer.dropped == dropped
    assert sum(int(line.removeprefix(b"lost ")) for line in lines if line.startswith(b"lost")) == dropped
    written = [int(line) for line in lines if not line.startswith(b"lost")]
    assert len(written) == 2000 - dropped
    assert written == sorted(written)


def test_a_reader_that_stays_stuck_does_not_keep_the_process_from_ending(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    fill(write_fd)
    writer = LineWriter(write_fd, most_lines=8, gather_s=0, tell=told)
    writer.put(b"x\n")
    writer.close(within_s=0)
    assert "waiting=" in repr(writer)
    reader = Reader(read_fd)  # only so that this test leaves no thread behind
    writer.close(within_s=20)
    os.close(write_fd)
    reader.join()
    assert reader.data.endswith(b"x\n")


def test_lines_for_a_reader_that_is_gone_are_counted_as_dropped(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    os.close(read_fd)
    writer = LineWriter(write_fd, most_lines=8, gather_s=0, tell=told)
    for n in range(3):
        writer.put(f"{n}\n".encode())
    writer.close(within_s=20)
    assert writer.dropped == 3


def test_a_line_after_the_end_is_dropped_and_counted(tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as file:
        writer = LineWriter(file.fileno(), most_lines=8, gather_s=0, tell=told)
        writer.close(within_s=20)
        writer.put(b"late\n")
    assert writer.dropped == 1
    assert (tmp_path / "log").read_bytes() == b""


def test_more_bytes_than_a_pipe_holds_arrive_whole(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, 4096)
    reader = Reader(read_fd)
    writer = LineWriter(write_fd, most_lines=4096, gather_s=0, tell=told)
    lines = [b"x" * 999 + b"\n"] * 500
    for line in lines:
        writer.put(line)
    writer.close(within_s=20)
    os.close(write_fd)
    reader.join()
    assert reader.data == b"".join(lines)


def test_lines_put_together_are_counted_one_by_one(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = pipe
    stuffing = fill(write_fd)
    writer = LineWriter(write_fd, most_lines=512, gather_s=0, tell=told)
    lines = [b"%d\n" % n for n in range(2000)]
    writer.put_together([])
    writer.put_together(lines[:512])  # as many as the thread writes together: it takes no more before it is rid of them
    while "waiting=0/" not in repr(writer):
        pass
    writer.put_together(lines[512:1000])
    writer.put(lines[1000])
    assert "waiting=489/512 dropped=0" in repr(writer)
    writer.put_together(lines[1001:1030])
    assert "waiting=512/512 dropped=6" in repr(writer)
    writer.put_together(lines[1030:1032])
    writer.put(lines[1032])
    assert writer.dropped == 9
    reader = Reader(read_fd)
    writer.close(within_s=20)
    writer.put_together(lines[1033:1035])
    os.close(write_fd)
    reader.join()
    assert reader.data[stuffing:].splitlines(keepends=True) == [*lines[:512], b"lost 9\n", *lines[512:1024]]
    assert "waiting=0/512 dropped=11" in repr(writer)
