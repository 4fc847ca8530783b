"""All backends of the daemon, by gpu_id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from comfygate.errors import BackendUnreachable, GateError
from comfygate.interfaces import IBackend, IComfyUI
from comfygate.model import BackendState

_WORDS = {
    BackendState.STARTING: "is starting",
    BackendState.DOWN: "went down and is being brought up again",
    BackendState.FAILED: "failed to start too often and was given up",
    BackendState.STOPPING: "is being stopped",
    BackendState.STOPPED: "is stopped",
}


class Fleet:
    """The backends, and the answer for a client when none of them can serve it."""

    def __init__(self, backends: Iterable[IBackend]) -> None:
        self._backends = {backend.gpu_id: backend for backend in backends}

    def __iter__(self) -> Iterator[IBackend]:
        return iter(self._backends.values())

    def __getitem__(self, gpu_id: int) -> IBackend:
        return self._backends[gpu_id]

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """All GPUs, in order."""
        return tuple(self._backends)

    def client(self, gpu_id: int) -> IComfyUI:
        """For asking a backend.

        :raises BackendUnreachable: if it serves no requests now.
        """
        backend = self._backends[gpu_id]
        if backend.client is None:
            raise BackendUnreachable(f"GPU {gpu_id} is {backend.state.value}")
        return backend.client

    def ready(self, gpu_ids: Iterable[int]) -> list[IBackend]:
        """Those of `gpu_ids` that serve requests now, in that order."""
        wanted = (self._backends[gpu_id] for gpu_id in gpu_ids)
        return [backend for backend in wanted if backend.state is BackendState.READY]

    def first_ready(self, gpu_ids: Iterable[int]) -> IBackend:
        """The first of `gpu_ids` that serves requests now.

        :raises GateError: 503 backend_starting or backend_down, with Retry-After.
        """
        gpu_ids = tuple(gpu_ids)
        for gpu_id in gpu_ids:
            backend = self._backends[gpu_id]
            if backend.state is BackendState.READY:
                return backend
        raise self.unavailable(gpu_ids)

    def unavailable(self, gpu_ids: Iterable[int]) -> GateError:
        """Why none of `gpu_ids` serves requests now, for the client."""
        backends = [self._backends[gpu_id] for gpu_id in gpu_ids]
        starting = any(backend.state is BackendState.STARTING for backend in backends)
        return GateError(
            503,
            "backend_starting" if starting else "backend_down",
            "; ".join(f"GPU {backend.gpu_id} {_WORDS.get(backend.state, 'does not answer')}" for backend in backends),
            "; ".join(f"GPU {backend.gpu_id}: {backend.last_error}" for backend in backends if backend.last_error),
            retry_after=min(backend.retry_after for backend in backends),
            extra_info={"backends": {str(backend.gpu_id): backend.state.value for backend in backends}},
        )
