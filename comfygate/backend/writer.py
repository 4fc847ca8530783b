"""Which backend answers for the user folder."""

from __future__ import annotations

from comfygate.backend.fleet import Fleet
from comfygate.interfaces import IBackend
from comfygate.model import BackendState


class UserWriter:
    """Chooses one backend for all ports: two that write settings lose some.

    It stays the same as long as it is READY: a request that is under way to it
    would meet those to another.  If any backend is ours, only ours are chosen,
    since others keep their user folder somewhere else.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._chosen: IBackend | None = None

    def backend(self) -> IBackend:
        """The writer now.

        :raises GateError: 503 backend_starting or backend_down, with Retry-After.
        """
        if self._chosen is None or self._chosen.state is not BackendState.READY:
            owned = tuple(backend.gpu_id for backend in self._fleet if backend.owned)
            self._chosen = self._fleet.first_ready(owned or self._fleet.gpu_ids)
        return self._chosen
