"""Masks for pictures that one GPU alone has."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from comfygate.control.merged import masks as module
from comfygate.control.merged.masks import Masks, original_of
from comfygate.errors import BackendUnclear, BackendUnreachable, GateError
from comfygate.files import FileName
from comfygate.gate.places import Places
from comfygate.gate.uploads import PATIENCE, UploadRoom
from tests.unit.fakes import House, raising
from tests.unit.test_control import later, now

KIND = "multipart/form-data; boundary=XyZ"
PREVIEW = FileName("temp", "", "a.png")


def form(ref: Any = None, image: bytes = b"\x89PNG", name: str = "original_ref") -> bytes:
    parts = [b'Content-Disposition: form-data; name="image"; filename="m.png"\r\n\r\n' + image]
    parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + orjson.dumps(ref))
    parts.append(b'Content-Disposition: form-data; name="type"\r\n\r\ninput')
    return b"".join(b"--XyZ\r\n" + part + b"\r\n" for part in parts) + b"--XyZ--\r\n"


REF = {"filename": "a.png", "subfolder": "", "type": "temp"}


@pytest.mark.parametrize("size", [0, 1000, module._PIECE - 100, 3 * module._PIECE])
def test_the_name_is_found_behind_a_picture_of_any_size(size: int) -> None:
    body = form(REF, b"\r\n--Xy" * (size // 6))
    assert original_of(io.BytesIO(body), KIND) == PREVIEW
    assert original_of(io.BytesIO(body), 'multipart/form-data; charset=x; boundary="XyZ"') == PREVIEW


def test_there_may_be_no_name() -> None:
    assert original_of(io.BytesIO(form(REF)), "text/plain") is None
    assert original_of(io.BytesIO(form(REF, name="other")), KIND) is None
    assert original_of(io.BytesIO(form("x")), KIND) is None
    assert original_of(io.BytesIO(form(REF).replace(b'"temp"', b"nonsense")), KIND) is None
    assert original_of(io.BytesIO(b""), KIND) is None


class Hall:
    def __init__(self) -> None:
        self.house = House(gpus=3)
        self.room = UploadRoom(self.house.clock)  # type: ignore[arg-type]
        files = Places(self.house.books.fleet, self.house.clock)  # type: ignore[arg-type]
        self.masks = Masks(self.house.books.fleet, files, self.room, self.house.clock)  # type: ignore[arg-type]

    def send(self, ref: Any = REF) -> Any:
        return self.masks.send((0, 1, 2), "/upload/mask", KIND, io.BytesIO(form(ref)))

    @property
    def sent(self) -> list[int]:
        return [len(backend.client.uploads) for backend in self.house.backends]


def test_a_mask_goes_to_the_gpu_that_has_the_picture() -> None:
    hall = Hall()
    hall.house.backends[2].client.folder[PREVIEW.target] = 1.0
    assert now(hall.send()).status == 200
    assert hall.sent == [0, 0, 1]
    assert hall.house.backends[2].client.uploads == [(KIND, form(REF))]
    now(hall.send({**REF, "type": "input"}))
    now(hall.send({**REF, "filename": "unknown.png"}))
    assert hall.sent == [2, 0, 1]


def test_it_waits_for_uploads_to_another_gpu() -> None:
    hall = Hall()
    other = hall.room.turn(1)
    other.ask(lambda: None)
    _, results = later(hall.send())
    assert hall.sent == [0, 0, 0]
    other.leave()
    assert results[0].status == 200 and hall.sent == [1, 0, 0]
    another = hall.room.turn(1)
    another.ask(lambda: None)
    _, results = later(hall.send())
    hall.house.clock.advance(PATIENCE)
    assert results[0].status == 200 and not another.waiting


def test_whoever_leaves_while_it_waits_takes_nothing_along() -> None:
    hall = Hall()
    other = hall.room.turn(1)
    other.ask(lambda: None)
    waiting, _ = later(hall.send())
    waiting.cancel()
    other.leave()
    assert hall.sent == [0, 0, 0]
    assert now(hall.send()).status == 200


@pytest.mark.parametrize(("error", "status"), [(BackendUnreachable("x"), 502), (BackendUnclear("x"), 504)])
def test_a_gpu_that_fails(error: Exception, status: int) -> None:
    hall = Hall()
    hall.house.backends[0].client.before["POST /upload/mask"] = raising(error)
    with pytest.raises(GateError) as caught:
        now(hall.send())
    assert caught.value.status == status
    done: list[int] = []
    hall.room.turn(1).ask(lambda: done.append(1))
    assert done, "its turn is over"
