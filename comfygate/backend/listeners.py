"""Who wants to know what happens to a backend."""

from __future__ import annotations

from twisted.logger import Logger

from comfygate.interfaces import IBackend, IBackendListener


class Listeners:
    """Tells all of them; what one of them raises is logged and stops nobody."""

    log = Logger()

    def __init__(self) -> None:
        self._listeners: list[IBackendListener] = []

    def add(self, listener: IBackendListener) -> None:
        """Tell `listener` of every later change."""
        self._listeners.append(listener)

    def backend_changed(self, backend: IBackend) -> None:
        """Tell that `backend.state` has changed."""
        for listener in tuple(self._listeners):
            with self.log.failuresHandled("while telling {listener} of a change", listener=listener):
                listener.backend_changed(backend)

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """Tell how many prompts wait or run in the backend."""
        for listener in tuple(self._listeners):
            with self.log.failuresHandled("while telling {listener} of a queue", listener=listener):
                listener.queue_changed(backend, remaining)
