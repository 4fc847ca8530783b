"""How many files a process of the benchmarks may have open."""

from __future__ import annotations

import resource

MOST = 20_000


def many_files() -> None:
    """Let this process, and those that it starts, have as many open as the machine allows, up to :data:`MOST`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else min(MOST, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
