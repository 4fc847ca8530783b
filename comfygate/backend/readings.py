"""What the driver and the kernel say about backends: memory, load, temperature."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

FRESH = 2.0
"""Seconds for which a reading is good enough."""

TIME_OUT = 2.0
"""Seconds after which a reading is not waited for any more; a driver in trouble may take minutes."""


@frozen(kw_only=True)
class Reading:
    """One GPU at one moment; ``None`` for what is not known.

    :ivar memory_used: bytes of the device's memory.
    :ivar memory_total: bytes of the device's memory.
    :ivar utilisation: share of the time that it was at work, from 0 to 1.
    :ivar temperature: degrees Celsius.
    :ivar process_memory: resident bytes of the backend's process.
    """

    memory_used: int | None = None
    memory_total: int | None = None
    utilisation: float | None = None
    temperature: float | None = None
    process_memory: int | None = None


NOTHING = Reading()


def free_memory(reading: Reading) -> int | None:
    """Bytes of the device's memory that nobody uses, if that is known."""
    if reading.memory_used is None or reading.memory_total is None:
        return None
    return reading.memory_total - reading.memory_used


class Sensors(Protocol):
    """What is read; both methods may block, and are called one at a time."""

    def read(self, pids: Mapping[int, int]) -> Mapping[int, Reading]:
        """Read everything.

        :param pids: the process of each backend that has one of ours.
        """

    def close(self) -> None:
        """Let the driver go."""


class Devices:
    """NVML for the devices, ``/proc`` for the processes.

    :ivar uuids: of the devices that NVML knows, by gpu_id; without any, it is
        not even loaded.  May be set to others at any time.
    """

    def __init__(self, uuids: Mapping[int, str]) -> None:
        self.uuids = uuids
        self._nvml: Any = None
        self._handles: dict[str, Any] = {}

    def read(self, pids: Mapping[int, int]) -> Mapping[int, Reading]:
        """See :meth:`Sensors.read`."""
        uuids = self.uuids
        found = {gpu_id: self._device(uuid) for gpu_id, uuid in uuids.items()} if uuids and self._open() else {}
        for gpu_id, pid in pids.items():
            found[gpu_id] = evolve(found.get(gpu_id, NOTHING), process_memory=resident_bytes(pid))
        return found

    def close(self) -> None:
        """See :meth:`Sensors.close`."""
        if self._nvml is not None:
            nvml, self._nvml = self._nvml, None
            self._handles.clear()
            nvml.nvmlShutdown()

    def _open(self) -> bool:
        if self._nvml is None:
            import pynvml  # noqa: PLC0415 - only machines that have the driver need it

            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError:
                return False
            self._nvml = pynvml
        return True

    def _device(self, uuid: str) -> Reading:
        nvml = self._nvml
        try:
            handle = self._handles.get(uuid) or nvml.nvmlDeviceGetHandleByUUID(uuid)
        except nvml.NVMLError:
            return NOTHING
        memory = self._ask(nvml.nvmlDeviceGetMemoryInfo, handle)
        load = self._ask(nvml.nvmlDeviceGetUtilizationRates, handle)
        temperature = self._ask(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU)
        # A handle outlives neither a reset nor a new driver.
        if memory is None:
            self._handles.pop(uuid, None)
        else:
            self._handles[uuid] = handle
        return Reading(
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            utilisation=None if load is None else load.gpu / 100,
            temperature=None if temperature is None else float(temperature),
        )

    def _ask(self, question: Callable[..., Any], *arguments: Any) -> Any:
        """An answer, or ``None``: parts of a device, for one, have no temperature."""
        try:
            return question(*arguments)
        except self._nvml.NVMLError:
            return None


def resident_bytes(pid: int) -> int | None:
    """The resident memory of a process (``VmRSS`` in proc(5)), if it is there."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    words = status.partition("\nVmRSS:")[2].split(maxsplit=1)
    return int(words[0]) * 1024 if words else None


class Readings:
    """The last reading of each GPU, made anew in a thread when somebody wants it.

    :param clock: times.
    :param call: calls a function in a thread.
    :param pids: the process of each backend that has one of ours.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        call: Callable[[Callable[[], Any]], Deferred[Any]],
        sensors: Sensors,
        pids: Callable[[], Mapping[int, int]],
    ) -> None:
        self._clock = clock
        self._call = call
        self._sensors = sensors
        self._pids = pids
        self._last: Mapping[int, Reading] = {}
        self._read_at = -FRESH
        self._under_way = False
        self._closed = False
        self._late: IDelayedCall | None = None
        self._waiting: list[Deferred[None]] = []

    def of(self, gpu_id: int) -> Reading:
        """The last reading of one GPU."""
        return self._last.get(gpu_id, NOTHING)

    def refresh(self) -> Deferred[None]:
        """Read anew, unless the last reading is fresh.

        :return: fires when that is done or has taken too long; never fails.
        """
        now = self._clock.seconds()
        if self._closed or now - self._read_at < FRESH or (self._under_way and self._late is None):
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if not self._under_way:
            self._under_way = True
            self._late = self._clock.callLater(TIME_OUT, self._time_out)
            self._call(partial(self._sensors.read, self._pids())).addCallbacks(self._read, self._failed)
        return waiting

    def close(self) -> None:
        """Read no more, and let the driver go as soon as nobody asks it."""
        self._closed = True
        if not self._under_way:
            self._release()
        self._answer()

    def _read(self, last: Mapping[int, Reading]) -> None:
        self._last = last
        self._ended()

    def _failed(self, failure: Failure) -> None:
        self._log.failure("the devices cannot be read", failure)
        self._last = {}
        self._ended()

    def _ended(self) -> None:
        self._under_way = False
        self._read_at = self._clock.seconds()
        if self._closed:
            self._release()
        self._answer()

    def _time_out(self) -> None:
        self._late = None
        self._last = {}  # rather nothing than what was true once
        self._answer()

    def _answer(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    def _release(self) -> None:
        released = self._call(self._sensors.close)
        released.addErrback(lambda failure: self._log.failure("the driver cannot be let go", failure))


def call_in_thread(reactor: Any, function: Callable[[], Any]) -> Deferred[Any]:
    """Call `function` in a thread of its own, which does not keep the program from ending.

    The reactor's pool is waited for when the daemon stops, and a driver in
    trouble may not answer before the machine is restarted.
    """
    done: Deferred[Any] = Deferred()

    def run() -> None:
        try:
            result = function()
        except BaseException:
            reactor.callFromThread(done.errback, Failure())
        else:
            reactor.callFromThread(done.callback, result)

    threading.Thread(target=run, name="readings", daemon=True).start()
    return done
