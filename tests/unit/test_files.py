"""Which file a request is about."""

from __future__ import annotations

import pytest

from comfygate.files import FileName, file_of, file_of_request, files_left


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (b"/view?filename=a.png", FileName("output", "", "a.png")),
        (b"/api/view?type=temp&subfolder=x%2Fy&filename=a%20b.png&preview=webp", FileName("temp", "x/y", "a b.png")),
        (b"/view?filename=a.png%20[temp]&type=output", FileName("temp", "", "a.png")),
        (b"/view?filename=a.png&filename=b.png", FileName("output", "", "a.png")),
        (b"/view_metadata/loras?filename=x.safetensors", FileName("/view_metadata/loras", "", "x.safetensors")),
        (b"/api/view_metadata/a%2Fb?filename=x", FileName("/view_metadata/a%2Fb", "", "x")),
        (b"/view", None),
        (b"/view?filename=", None),
        (b"/view?filename=a&type=elsewhere", None),
        (b"/view_metadata/loras", None),
        (b"/view?" + b"a=b&" * 200, None),
        (b"/vi\xffew?filename=a", None),
    ],
)
def test_a_request_names_a_file(target: bytes, name: FileName | None) -> None:
    assert file_of_request(target) == name


def test_a_name_says_how_to_ask_for_it() -> None:
    assert FileName("temp", "a/b", "c d.png").target == "/view?filename=c+d.png&type=temp&subfolder=a%2Fb"
    assert FileName("/view_metadata/loras", "", "x").target == "/view_metadata/loras?filename=x"
    assert FileName("input", "", "x").shared and not FileName("temp", "", "x").shared


def test_a_prompt_leaves_files() -> None:
    images = [{"filename": f"{kind}.png", "subfolder": "", "type": kind} for kind in ("temp", "output")]
    left = {"9": {"images": images, "animated": [False], "text": ["x"]}, "10": None, "11": {"a": 3}}
    names = [FileName(kind, "", f"{kind}.png") for kind in ("temp", "output")]
    assert list(files_left({"outputs": left})) == names
    assert list(files_left({"outputs": None})) == list(files_left({})) == []
    assert file_of({"filename": 3}) is None and file_of({"filename": "a", "subfolder": 4}) is None
