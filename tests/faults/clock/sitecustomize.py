"""Shifts the wall clock of every Python process that finds this module by the seconds that a file names."""

import os
import time

_real = time.time
_real_ns = time.time_ns
_file = os.environ.get("COMFYGATE_TEST_CLOCK", "")


def _offset() -> float:
    try:
        with open(_file, encoding="ascii") as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0


def _time() -> float:
    return _real() + _offset()


def _time_ns() -> int:
    return _real_ns() + int(_offset() * 1_000_000_000)


if _file:
    time.time = _time
    time.time_ns = _time_ns
