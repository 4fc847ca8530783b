"""All backends of the daemon, by gpu_id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from comfygate.errors import BackendUnreachable, GateError
from comfygate.interfaces import IBackend, IBackendListener, IComfyUI
from comfygate.model import BackendState

_WORDS = {
    BackendState.STARTING: "is starting",
    BackendState.DOWN: "went down and is being brought up again",
    BackendState.FAILED: "failed to start too often and was given up",
    BackendState.STOPPING: "is being stopped",
    BackendState.STOPPED: "is stopped",
}

_A_WHILE = 60.0
"""Seconds after which to ask again for what was taken away."""


class Fleet:
    """The backends, and the answer for a client when none of them can serve it.

    They may come and go.  Who has asked for one that is gone by now is told
    that it does not answer.
    """

    def __init__(self, backends: Iterable[IBackend]) -> None:
        self._backends = {backend.gpu_id: backend for backend in backends}
        self._listeners: list[IBackendListener] = []

    def subscribe(self, listener: IBackendListener) -> None:
        """Tell `listener` of every later change of any backend, also of those that are yet to come."""
        self._listeners.append(listener)
        for backend in self:
            backend.subscribe(listener)

    def add(self, backend: IBackend) -> None:
        """There is one more, or another one in the place of the one with its gpu_id."""
        self._backends = dict(sorted({**self._backends, backend.gpu_id: backend}.items()))
        for listener in self._listeners:
            backend.subscribe(listener)

    def remove(self, gpu_id: int) -> None:
        """One is gone."""
        del self._backends[gpu_id]

    def __iter__(self) -> Iterator[IBackend]:
        return iter(tuple(self._backends.values()))

    def __contains__(self, gpu_id: object) -> bool:
        return gpu_id in self._backends

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
        backend = self._backends.get(gpu_id)
        if backend is None or backend.client is None:
            raise BackendUnreachable(f"GPU {gpu_id} is {backend.state.value if backend else 'gone'}")
        return backend.client

    def ready(self, gpu_ids: Iterable[int]) -> list[IBackend]:
        """Those of `gpu_ids` that serve requests now, in that order."""
        return [backend for backend in self._those(gpu_ids) if backend.state is BackendState.READY]

    def first_ready(self, gpu_ids: Iterable[int]) -> IBackend:
        """The first of `gpu_ids` that serves requests now.

        :raises GateError: 503 backend_starting or backend_down, with Retry-After.
        """
        gpu_ids = tuple(gpu_ids)
        for backend in self.ready(gpu_ids):
            return backend
        raise self.unavailable(gpu_ids)

    def unavailable(self, gpu_ids: Iterable[int]) -> GateError:
        """Why none of `gpu_ids` serves requests now, for the client."""
        backends = self._those(gpu_ids)
        if not backends:
            return GateError(503, "backend_down", "No GPU of this port is there any more", retry_after=_A_WHILE)
        starting = any(backend.state is BackendState.STARTING for backend in backends)
        return GateError(
            503,
            "backend_starting" if starting else "backend_down",
            "; ".join(f"GPU {backend.gpu_id} {_WORDS.get(backend.state, 'does not answer')}" for backend in backends),
            "; ".join(f"GPU {backend.gpu_id}: {backend.last_error}" for backend in backends if backend.last_error),
            retry_after=min(backend.retry_after for backend in backends),
            extra_info={"backends": {str(backend.gpu_id): backend.state.value for backend in backends}},
        )

    def _those(self, gpu_ids: Iterable[int]) -> list[IBackend]:
        return [self._backends[gpu_id] for gpu_id in gpu_ids if gpu_id in self._backends]
