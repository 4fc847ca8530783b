"""Which accelerators there are, and how a process is bound to one of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from attrs import evolve, frozen

from comfygate.model import Device

MOST_CPUS = 64
"""More shares of one CPU than this are a slip of the pen."""


class DeviceError(ValueError):
    """The ``devices`` key names what is not there; the message says so in one sentence."""


@frozen
class Card:
    """One accelerator that the driver reports.

    :ivar uuid: ``GPU-…``, or ``MIG-…`` for a part of one.
    :ivar name: what people call it.
    :ivar parts: what it is divided into; then it cannot be used as a whole.
    """

    uuid: str
    name: str
    parts: tuple[Card, ...] = ()

    @property
    def usable(self) -> tuple[Card, ...]:
        """Its parts, or itself where it is not divided."""
        return self.parts or (self,)


class Driver(Protocol):
    """What is asked of NVML."""

    def cards(self) -> Sequence[Card]:
        """List the accelerators in the driver's order, that of the PCI bus.

        :raises DeviceError: if there is no driver.
        """


class NVML:
    """NVIDIA's management library, opened for the time of one question."""

    def cards(self) -> Sequence[Card]:
        """See :meth:`Driver.cards`."""
        import pynvml  # noqa: PLC0415 - only machines that have the driver need it

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise DeviceError(
                f"the NVIDIA driver does not answer ({error}); use cpu*1 on a machine without it"
            ) from None
        try:
            return [_card(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
        except pynvml.NVMLError as error:
            raise DeviceError(f"the NVIDIA driver does not list its devices ({error})") from None
        finally:
            pynvml.nvmlShutdown()


def _card(nvml: Any, index: int) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    name = _text(nvml.nvmlDeviceGetName(handle))
    parts = tuple(Card(uuid, f"{name} (part)") for uuid in _parts(nvml, handle))
    return Card(_text(nvml.nvmlDeviceGetUUID(handle)), name, parts)


def _parts(nvml: Any, handle: object) -> Iterator[str]:
    try:
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            yield _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)))
    except nvml.NVMLError:
        pass  # not divided, or no more parts


def resolve_devices(spec: str, driver: Driver | None = None) -> tuple[Device, ...]:
    """Read the ``devices`` key.

    :param spec: ``all``, or a comma-separated list of indices (``0``), UUIDs or
        unambiguous beginnings of them (``GPU-8f``), ``cpu`` and ``cpu*4``.
    :param driver: asked only if `spec` names an accelerator.
    :return: the devices, numbered from 0 in the order of `spec`.
    :raises DeviceError: for anything that is not there, or named twice.
    """
    words = [word.strip() for word in spec.split(",") if word.strip()]
    if not words:
        raise DeviceError("no device is named; use all, indices such as 0,1, UUIDs, or cpu*1")
    choice = _Choice(driver or NVML())
    found = [device for word in words for device in choice.devices(word)]
    if not found:
        raise DeviceError("the NVIDIA driver lists no device; use cpu*1 on a machine without one")
    return tuple(evolve(device, gpu_id=gpu_id) for gpu_id, device in enumerate(found))


class _Choice:
    """The devices that were named so far."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._cards: Sequence[Card] | None = None
        self._taken: dict[str, str] = {}

    def devices(self, word: str) -> list[Device]:
        cpu = re.fullmatch(r"cpu(?:\s*\*\s*(\d{1,9}))?", word, re.IGNORECASE)
        if cpu:
            return _shares(word, int(cpu[1] or 1))
        cards = self._known()
        if word.lower() == "all":
            return [self._take(str(index), part) for index, card in enumerate(cards) for part in card.usable]
        card = _by_index(word, cards) if re.fullmatch(r"\d{1,9}", word) else _by_uuid(word, cards)
        return [self._take(word, card)]

    def _known(self) -> Sequence[Card]:
        if self._cards is None:
            self._cards = self._driver.cards()
        return self._cards

    def _take(self, word: str, card: Card) -> Device:
        if card.uuid in self._taken:
            raise DeviceError(f"device {word} ({card.name}) is named twice, as {self._taken[card.uuid]} before")
        self._taken[card.uuid] = word
        environment = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": card.uuid}
        return Device(gpu_id=-1, label=word, name=card.name, environment=environment)


def _shares(word: str, count: int) -> list[Device]:
    if not 1 <= count <= MOST_CPUS:
        raise DeviceError(f"{word} asks for {count} shares of the CPU; from 1 to {MOST_CPUS} make sense")
    return [
        Device(gpu_id=-1, label="cpu", name="CPU", environment={"CUDA_VISIBLE_DEVICES": ""}, arguments=("--cpu",))
        for _ in range(count)
    ]


def _by_index(word: str, cards: Sequence[Card]) -> Card:
    if int(word) >= len(cards):
        there = f"there are {len(cards)}, counted from 0" if cards else "there are none; use cpu*1"
        raise DeviceError(f"there is no device {word}: {there}")
    return cards[int(word)]


def _by_uuid(word: str, cards: Sequence[Card]) -> Card:
    all_cards = [one for card in cards for one in (card, *card.parts)]
    is_uuid = re.match(r"(?:GPU|MIG)-", word, re.IGNORECASE)
    found = [card for card in all_cards if is_uuid and card.uuid.lower().startswith(word.lower())]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(card.uuid for card in found or all_cards) or "none"
    if found:
        raise DeviceError(f"{word} is the beginning of several devices: {listed}")
    raise DeviceError(f"there is no device {word}; use all, an index, cpu*1, or one of these UUIDs: {listed}")


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def nvml_uuids(devices: Mapping[int, Device]) -> Iterator[tuple[int, str]]:
    """Each gpu_id whose device is an accelerator, with the UUID that NVML knows it by."""
    for gpu_id, device in devices.items():
        uuid = device.environment.get("CUDA_VISIBLE_DEVICES")
        if uuid:
            yield gpu_id, uuid
