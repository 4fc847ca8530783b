"""What the driver and the kernel say about a backend: memory, load, temperature."""

from __future__ import annotations

from attrs import frozen


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


class Readings:
    """The last reading of each GPU."""

    def of(self, gpu_id: int) -> Reading:
        """The last reading of one GPU."""
        return Reading()
