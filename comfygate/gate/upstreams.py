"""The connections to the backends: one pool for each, as long as it serves requests."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import implementer

from comfygate.gate.pool import UpstreamPool
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendState


@implementer(IBackendListener)
class Upstreams:
    """Makes and ends pools as backends come and go.

    :param make_pool: makes the pool for a backend's address; its second
        argument is what messages call the backend.
    """

    def __init__(self, make_pool: Callable[[tuple[str, int], str], UpstreamPool]) -> None:
        self._make_pool = make_pool
        self._pools: dict[int, UpstreamPool] = {}

    def pool(self, backend: IBackend) -> UpstreamPool:
        """The pool of a backend that is READY."""
        pool = self._pools.get(backend.gpu_id)
        if pool is None:
            if backend.address is None:
                raise RuntimeError(f"GPU {backend.gpu_id} has no address")
            pool = self._pools[backend.gpu_id] = self._make_pool(backend.address, f"GPU {backend.gpu_id}")
        return pool

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if backend.state is not BackendState.READY:
            pool = self._pools.pop(backend.gpu_id, None)
            if pool is not None:
                pool.close()

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def close(self) -> None:
        """End every connection."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
