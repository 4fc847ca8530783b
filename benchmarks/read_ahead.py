"""What reading a model file ahead saves when it is loaded.

Writes a file, and times how long it takes to copy it out of a memory map, as
safetensors does for ComfyUI: first dropped from the page cache, then dropped
and read ahead by the companion's own reader.  Prints seconds, round by round.

    python -m benchmarks.read_ahead --folder /var/tmp --size 1
"""

from __future__ import annotations

import argparse
import logging
import mmap
import os
import statistics
import tempfile
import time
from pathlib import Path

PIECE = 4 * 1024 * 1024
PATIENCE, PAUSE = 600.0, 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="on the disk that models are on; by default where temporary files are")
    parser.add_argument("--size", type=float, default=1.0, help="GiB")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "model.safetensors"
        make(path, int(options.size * 2**30))
        took: dict[str, list[float]] = {"cold": [], "read ahead": []}
        for number in range(1, options.rounds + 1):
            drop(path)
            took["cold"].append(load(path))
            drop(path)
            reading = read_ahead(path)
            took["read ahead"].append(load(path))
            cold, warm = (times[-1] for times in took.values())
            print(f"round {number}: cold {cold:.2f} s, after {reading:.2f} s of reading ahead {warm:.2f} s")
        cold, warm = map(statistics.median, took.values())
        print(f"median: cold {cold:.2f} s, read ahead {warm:.2f} s, ratio {warm / cold:.2f}")


def make(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for _ in range(0, size, PIECE):
            file.write(os.urandom(PIECE))
        file.flush()
        os.fsync(file.fileno())


def drop(path: Path) -> None:
    """Have the kernel forget the file."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_ahead(path: Path) -> float:
    """Read the file ahead, and return how long that took until it was in memory."""
    logging.disable()  # outside ComfyUI, the companion misses what it is for
    from comfygate.companion.custom_nodes.comfygate_companion.read_ahead import (  # noqa: PLC0415
        Reader,
        available_bytes,
    )

    began = time.perf_counter()
    reader = Reader(lambda name: str(path), available_bytes)
    reader.want(["model"])
    reader.wait(PATIENCE)
    while not is_in_memory(path):  # the last pieces are still on their way
        if time.perf_counter() - began > PATIENCE:
            raise SystemExit("The file did not come into memory: is there enough of it?")
        time.sleep(PAUSE)
    return time.perf_counter() - began


def is_in_memory(path: Path) -> bool:
    """Whether a file can be read without waiting for the disk (preadv2(2), RWF_NOWAIT)."""
    target = bytearray(PIECE)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            return all(
                os.preadv(file.fileno(), [target], place, os.RWF_NOWAIT) == min(PIECE, size - place)
                for place in range(0, size, PIECE)
            )
        except BlockingIOError:
            return False


def load(path: Path) -> float:
    began = time.perf_counter()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        target = bytearray(PIECE)
        for place in range(0, len(mapped), PIECE):
            target[:] = mapped[place : place + PIECE]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
