"""Where a client is at home: the one of several places that it always comes to, as long as that is there."""

from __future__ import annotations

import hashlib
from functools import lru_cache


@lru_cache(maxsize=4096)
def home(client: bytes, gpu_ids: tuple[int, ...]) -> int:
    """Rendezvous hashing: if a GPU goes, only its own clients move, and they come back with it.

    :param client: whatever tells one client from another.
    :param gpu_ids: at least one.
    """
    return max(gpu_ids, key=lambda gpu_id: hashlib.blake2b(b"%d %b" % (gpu_id, client), digest_size=8).digest())
