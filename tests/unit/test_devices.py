"""The ``devices`` key."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from comfygate.backend.devices import NVML, Card, DeviceError, resolve_devices

A, B, C = (Card(f"GPU-{letter}0000000-1111-2222-3333-444444444444", f"Card {letter}") for letter in "abc")
DIVIDED = Card("GPU-d0000000", "Card d", (Card("MIG-1111", "Card d (part)"), Card("MIG-2222", "Card d (part)")))


class Cards:
    def __init__(self, *cards: Card) -> None:
        self._cards = cards

    def cards(self) -> tuple[Card, ...]:
        return self._cards


class NoDriver:
    def cards(self) -> tuple[Card, ...]:
        raise DeviceError("no NVIDIA driver answers; use cpu*1")


def uuids(spec: str, *cards: Card) -> list[str]:
    return [device.environment["CUDA_VISIBLE_DEVICES"] for device in resolve_devices(spec, Cards(*cards))]


def test_all() -> None:
    first, second = resolve_devices("all", Cards(A, B))
    assert (first.gpu_id, first.label, first.name) == (0, "0", "Card a")
    assert first.environment == {"CUDA_VISIBLE_DEVICES": A.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert first.arguments == ()
    assert (second.gpu_id, second.label) == (1, "1")


def test_order_is_kept_and_numbered_from_0() -> None:
    devices = resolve_devices("2, 0", Cards(A, B, C))
    assert [(device.gpu_id, device.label, device.name) for device in devices] == [
        (0, "2", "Card c"),
        (1, "0", "Card a"),
    ]


def test_uuids_and_beginnings_of_them() -> None:
    assert uuids(f"{B.uuid},gpu-A", A, B, C) == [B.uuid, A.uuid]


def test_parts() -> None:
    assert uuids("all", A, DIVIDED) == [A.uuid, "MIG-1111", "MIG-2222"]
    assert uuids("MIG-2", A, DIVIDED) == ["MIG-2222"]


def test_cpu_needs_no_driver() -> None:
    devices = resolve_devices("cpu*3,CPU", NoDriver())
    assert [device.gpu_id for device in devices] == [0, 1, 2, 3]
    assert {device.label for device in devices} == {"cpu"}
    assert devices[0].arguments == ("--cpu",)
    assert devices[0].environment == {"CUDA_VISIBLE_DEVICES": ""}


def test_mixture() -> None:
    assert uuids("1,cpu,0", A, B) == [B.uuid, "", A.uuid]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "no device is named"),
        (" , ", "no device is named"),
        ("3", "there is no device 3: there are 2, counted from 0"),
        ("0,0", "device 0 (Card a) is named twice, as 0 before"),
        ("0,all", "device 0 (Card a) is named twice"),
        ("GPU-a,0", "device 0 (Card a) is named twice, as GPU-a before"),
        ("GPU-", "GPU- is the beginning of several devices: GPU-a"),
        ("GPU-z", "there is no device GPU-z"),
        ("G", "there is no device G"),
        ("-1", "there is no device -1"),
        ("cuda:0", "there is no device cuda:0"),
        ("cpu*0", "cpu*0 asks for 0 shares"),
        ("cpu*1000", "from 1 to 64 make sense"),
        ("99999999999999999999", "there is no device 99999999999999999999"),
    ],
)
def test_mistakes(spec: str, sentence: str) -> None:
    with pytest.raises(DeviceError) as caught:
        resolve_devices(spec, Cards(A, B))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_device_at_all() -> None:
    with pytest.raises(DeviceError, match=r"use cpu\*1"):
        resolve_devices("all", Cards())
    with pytest.raises(DeviceError, match="there are none"):
        resolve_devices("0", Cards())


def test_no_driver() -> None:
    with pytest.raises(DeviceError, match=r"use cpu\*1"):
        resolve_devices("all", NoDriver())


class FakeNVML(SimpleNamespace):
    """NVML with two cards; the second is divided."""

    class NVMLError(Exception):
        pass

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.open = 0

    def nvmlInit(self) -> None:
        if self.fault == "init":
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        if self.fault == "count":
            raise self.NVMLError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"GPU-{index}"

    def nvmlDeviceGetUUID(self, handle: str) -> bytes:
        return handle.encode()

    def nvmlDeviceGetName(self, handle: str) -> str:
        return f"Name of {handle}"

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: str) -> int:
        return 7 if handle == "GPU-1" else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: str, index: int) -> str:
        if index > 0:
            raise self.NVMLError("Not Found")
        return "MIG-0"


def test_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml: Any = FakeNVML()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    assert NVML().cards() == [
        Card("GPU-0", "Name of GPU-0"),
        Card("GPU-1", "Name of GPU-1", (Card("MIG-0", "Name of GPU-1 (part)"),)),
    ]
    assert nvml.open == 0


@pytest.mark.parametrize("fault", ["init", "count"])
def test_nvml_that_fails(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    nvml: Any = FakeNVML(fault)
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    with pytest.raises(DeviceError, match="NVIDIA driver"):
        NVML().cards()
    assert nvml.open == 0
