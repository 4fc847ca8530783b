"""Boundaries: what each part of the daemon promises to the others."""

# zope.interface describes methods without self.
# ruff: noqa: N805

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.plugin import IPlugin
from zope.interface import Attribute, Interface

from comfygate.model import (
    BackendAnswer,
    BackendQueue,
    BackendState,
    BackendView,
    Choice,
    Holding,
    Job,
    JobState,
    Progress,
    RestartCause,
)


class IRoutingPolicy(Interface):
    """Decides which waiting job goes to which GPU next.

    It is asked whenever something changes, over our own queue; it does no I/O
    and keeps no state, so that it can also be asked "what if".
    """

    def select(waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
        """Pick the next assignment.

        :param waiting: the gate's waiting jobs, in the order in which they
            would run; :meth:`comfygate.line.Line.of` makes more of them.
        :param backends: every backend of the gate's set, available or not; ask
            :meth:`BackendView.accepts` whether a job may go there.
        :param now: seconds on the daemon's monotonic clock.
        :return: a choice, or ``None`` if nothing should be handed over now.
        """


class IInterruptPolicy(Interface):
    """Decides on which GPUs a prompt that is to be interrupted is looked for."""

    def candidates(
        prompt_id: str, job: Job | None, gpu_id: int | None, backends: Sequence[BackendView]
    ) -> Sequence[int]:
        """List the GPUs to ask, in order.

        :param prompt_id: what the client wants stopped.
        :param job: the job, if this daemon accepted it and remembers it.
        :param gpu_id: the GPU that holds the job, if one does.
        :param backends: all backends.
        :return: gpu_ids; the first that holds the prompt interrupts it.
        """


class IPolicyMaker(IPlugin):
    """A plugin (``twisted/plugins/*.py``) that makes policies of one name.

    In the configuration: ``policy = name`` or ``policy = name:key=value,key=value``.
    """

    name: str = Attribute("what the configuration calls the policy")
    kind: str = Attribute("'routing' or 'interrupt'")
    help: str = Attribute("one line for people")
    arguments: str = Attribute("the argument format, such as 'bias=3'; empty if none are taken")

    def make(arguments: Mapping[str, str]) -> object:
        """Make one policy.

        :param arguments: what stood behind the colon.
        :return: a provider of :class:`IRoutingPolicy` or :class:`IInterruptPolicy`.
        :raises ValueError: for an unknown argument or a bad value; the message
            names it and the remedy.
        """


class IComfyUI(Interface):
    """What the control plane asks of one ComfyUI.

    Every method raises :class:`~comfygate.errors.BackendUnreachable` if nothing
    was sent, and another :class:`~comfygate.errors.BackendError` if the request
    may have been carried out.
    """

    async def validate(body: bytes) -> BackendAnswer:
        """Ask the companion what POST /prompt would say to `body`."""

    async def submit(body: bytes) -> BackendAnswer:
        """Queue the prompt in `body`: POST /prompt."""

    async def queue() -> BackendQueue:
        """List what runs and waits there: GET /queue."""

    async def history(prompt_id: str) -> dict[str, Any] | None:
        """Tell how a prompt ended: GET /history/{id}; ``None`` if it did not, or is not known."""

    async def histories(newest: int | None) -> dict[str, dict[str, Any]]:
        """List how prompts ended, the newest last: GET /history."""

    async def forget(prompt_ids: Iterable[str] | None) -> None:
        """Drop these entries of its history, or all: POST /history."""

    async def interrupt(prompt_id: str | None) -> None:
        """Stop what runs, if it is `prompt_id` or that is ``None``: POST /interrupt."""

    async def delete(prompt_ids: Iterable[str]) -> None:
        """Remove waiting prompts: POST /queue."""

    async def free() -> None:
        """Unload all models, and forget what is cached, once the running prompt has ended: POST /free."""

    async def ask(method: str, target: str, body: bytes | None = None, *, seconds: float, limit: int) -> BackendAnswer:
        """Put any question.

        :param target: path and query, percent-encoded.
        :param body: JSON.
        :param seconds: that all of it may take.
        :param limit: bytes that the answer may have.
        """

    async def modified(target: str, seconds: float) -> float | None:
        """When the file that `target` names was changed last, in seconds since 1970; 0 if that is not told.

        :return: ``None`` if there is no such file: the answer to HEAD is 404.
        """

    async def upload(target: str, content_type: str, content: BinaryIO, seconds: float) -> BackendAnswer:
        """POST a file's bytes as they are, from its beginning, without holding them in memory; closes it."""

    async def read_ahead(models: Iterable[str]) -> None:
        """Have the companion read these model files ahead, and nothing else."""


class IBackend(Interface):
    """One ComfyUI, ours or someone else's."""

    gpu_id: int = Attribute("index in the order of devices")
    owned: bool = Attribute("whether its process is ours, so that its jobs die with it")
    name: str = Attribute("what people call the device")
    device: str = Attribute("what the configuration calls the device")
    state: BackendState = Attribute("where it is in its life")
    address: tuple[str, int] | None = Attribute("host and port that answer, while READY")
    client: IComfyUI | None = Attribute("for asking it, while READY")
    has_companion: bool = Attribute("whether it answers POST /comfygate/validate")
    restarts: int = Attribute("how often it was started again")
    restart_causes: Mapping[RestartCause, int] = Attribute("how often for which cause")
    pid: int | None = Attribute("its process, while there is one of ours")
    progress: Progress | None = Attribute("how far the prompt is that it runs, as far as it tells")
    holding: Holding | None = Attribute("what it has in memory, as it said last, if it tells")
    held_before: Mapping[str, tuple[str, ...]] = Attribute(
        "the model files that it had in memory when a prompt was about to run, for the last few prompts"
    )
    cause: RestartCause = Attribute("why it went down last")
    last_error: str | None = Attribute("why it is not READY, in one line, or None")
    retry_after: float = Attribute("seconds after which a client should ask again")

    def start() -> None:
        """Begin to bring it up, and keep it up."""

    def stop() -> Deferred[None]:
        """End it for good; fires when nothing of it is left."""

    def restart() -> Deferred[None]:
        """End it as :meth:`stop` does, then start it again; also one that was given up.

        A backend that is not ours is only asked again whether it is there.

        :return: fires when it has been started again, which is before it is
            READY, or when it has been stopped instead: a stop wins.
        """

    def condemn(cause: RestartCause, reason: str, evidence: Mapping[str, object]) -> None:
        """Kill its process and start another, since only that will serve again.

        Without effect unless it is READY.  A backend that is not ours is left alone.

        :param reason: what it suffers from, in one line for people.
        :param evidence: what was measured or seen, for the log.
        """

    def subscribe(listener: IBackendListener) -> None:
        """Tell `listener` of every later change."""


class IBackendListener(Interface):
    """Whoever wants to know what happens to backends."""

    def backend_changed(backend: IBackend) -> None:
        """`backend.state` has changed."""

    def queue_changed(backend: IBackend, remaining: int) -> None:
        """The backend said that `remaining` prompts wait or run in its queue."""


class IJobListener(Interface):
    """Whoever wants to know what happens to jobs.

    It is told in the middle of a change: it only takes note, and must not raise.
    """

    def job_changed(job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None) -> None:
        """A job has come into `state`.

        :param gpu_id: the GPU that holds it, or held it last.
        :param reason: why, in one line for people, where there is more to say.
        :param record: once it has ended, its entry in ComfyUI's ``/history``, in
            JSON; ``None`` if there is none.
        """

    def job_refused(job: Job) -> None:
        """A job that was accepted turned out to be refused, and its client was told so."""


class IJournal(IJobListener):
    """Keeps jobs where they outlive the daemon.

    As a listener it takes note of every change, and writes it down soon.
    """

    lasting: bool = Attribute("whether it keeps how jobs ended")

    def accept(job: Job) -> Deferred[None]:
        """Write a new job down, before its client is told that it is accepted.

        :return: fires when it would survive a loss of power; fails with
            :class:`~comfygate.errors.JournalError` if it cannot be written, and
            then nothing of it is kept.
        """

    def flush() -> Deferred[None]:
        """Fires when every change that it was told of is written down; fails as :meth:`accept`."""

    def history(prompt_id: str) -> Deferred[bytes | None]:
        """The entry of a finished job in ComfyUI's ``/history``, in JSON, if it is kept."""

    def histories(gpu_ids: Iterable[int], newest: int | None) -> Deferred[list[tuple[str, float, bytes]]]:
        """The entries of jobs that ended on these GPUs, the newest last: (prompt_id, end in seconds since 1970, JSON).

        :param newest: how many at most; ``None`` for all.
        """

    def forget_histories(gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> Deferred[None]:
        """Drop the entries of these jobs, or of all, that ended on these GPUs; that they ended is still known."""


class ILaunched(Interface):
    """A process, from its start to its end."""

    exited: Deferred[str] = Attribute("fires once with the reason, in words, when the process is gone")

    def terminate() -> None:
        """Ask it to end."""

    def kill() -> None:
        """End its whole process group now."""


class IStatusSource(Interface):
    """Knows how many prompts a gate's clients should be told of."""

    def remaining() -> int:
        """Prompts that run or wait on the gate's GPUs: in their queues, on the way, and in ours."""

    def heard(kind: bytes, payload: bytes) -> None:
        """A backend told a client something about the end of a prompt, which counts from now on.

        :param kind: the message's type, one of :data:`comfygate.last_words.EVENTS`.
        """
