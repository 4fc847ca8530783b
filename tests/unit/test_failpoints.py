from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from comfygate import failpoints
from comfygate.failpoints import VARIABLE, armed


def test_nothing_happens_without_the_variable() -> None:
    armed("")("journal.batch.begun")
    failpoints.reach("journal.batch.begun")


@pytest.mark.parametrize("text", ["name:0", "name:x", "name:-1", "name:1.5"])
def test_a_bad_count_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="counts from 1"):
        armed(text)


@pytest.mark.parametrize(("value", "reached"), [("here", 1), ("here:3", 3)])
def test_the_process_dies_at_the_step(value: str, reached: int) -> None:
    program = (
        "from comfygate.failpoints import reach\n"
        "for n in range(9):\n    print(n + 1, flush=True)\n    reach('there')\n    reach('here')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={VARIABLE: value}, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout.split()[-1]) == (-signal.SIGKILL, str(reached))
