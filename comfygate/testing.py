"""Public fakes, so that authors of policies can test theirs without a daemon.

::

    from comfygate.testing import job, view

    def test_prefers_the_idle_gpu():
        choice = MyPolicy().select([job()], [view(0, running=1), view(1)], now=0.0)
        assert choice.gpu_id == 1
"""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable
from typing import Any

from comfygate.model import BackendState, BackendView, Job, Order

_sequence = itertools.count(1)


def job(
    *,
    targets: Iterable[int] = range(8),
    client_id: str | None = None,
    number: float | None = None,
    gate: str = "hub",
    expected: int = -1,
    prompt_id: str | None = None,
    size: int = 0,
    models: Iterable[str] = (),
    shape: str = "",
) -> Job:
    """A waiting job that comes after those made before it, unless `number` says otherwise.

    :param size: bytes of JSON that it holds.
    :param models: the model files that it loads.
    :param shape: equal for jobs that take equally long.
    """
    sequence = next(_sequence)
    return Job(
        prompt_id=prompt_id or str(uuid.uuid4()),
        number=sequence if number is None else number,
        sequence=sequence,
        gate=gate,
        targets=frozenset(targets),
        expected=expected,
        client_id=client_id,
        submission=b" " * size,
        item=b"[]",
        models=frozenset(models),
        shape=shape,
    )


def view(
    gpu_id: int,
    *,
    running: int = 0,
    pending: int = 0,
    state: BackendState = BackendState.READY,
    prefetch: int = 2,
    active: tuple[Order, ...] | None = None,
    last_assigned: int = -1,
    loaded: Iterable[str] = (),
    **more: Any,
) -> BackendView:
    """A GPU as a policy sees it; it holds as many jobs as run and wait, unless `active` says otherwise.

    :param loaded: the model files that it has in memory, those used last at the end.
    :param more: what else there is in a :class:`~comfygate.model.BackendView`.
    """
    if active is None:
        active = tuple((float("-inf"), index) for index in range(running + pending))
    return BackendView(
        gpu_id=gpu_id,
        state=state,
        active=active,
        running=running,
        pending=pending,
        prefetch=prefetch,
        last_assigned=last_assigned,
        loaded=tuple(loaded),
        **more,
    )
