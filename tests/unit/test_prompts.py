from typing import Any

import orjson
import pytest

from comfygate.errors import GateError
from comfygate.prompts import parse_submission, renumbered

ID = "11111111-2222-4333-8444-555555555555"
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {"width": 64}}}


def body(**fields: Any) -> bytes:
    return orjson.dumps({"prompt": PROMPT, **fields})


def refusal(data: bytes) -> GateError:
    with pytest.raises(GateError) as caught:
        parse_submission(data)
    assert caught.value.status == 400
    assert caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("fields", "type"),
    [
        # Each of these kills or cripples a ComfyUI that is sent it.
        ({"client_id": []}, "invalid_client_id"),
        ({"client_id": {}}, "invalid_client_id"),
        ({"client_id": 7}, "invalid_client_id"),
        ({"extra_data": None}, "invalid_extra_data"),
        ({"extra_data": 5}, "invalid_extra_data"),
        ({"extra_data": []}, "invalid_extra_data"),
        ({"extra_data": "x"}, "invalid_extra_data"),
        ({"extra_data": {"client_id": []}}, "invalid_client_id"),
        ({"number": "abc"}, "invalid_number"),
        ({"number": None}, "invalid_number"),
        ({"number": True}, "invalid_number"),
        ({"front": "yes"}, "invalid_front"),
        ({"prompt_id": "my job"}, "invalid_prompt_id"),
        ({"prompt_id": ID.upper().replace("1", "A")}, "invalid_prompt_id"),
        ({"prompt_id": ID.replace("-", "")}, "invalid_prompt_id"),
        ({"prompt_id": 5}, "invalid_prompt_id"),
        ({"prompt": None}, "invalid_prompt"),
        ({"prompt": "x"}, "invalid_prompt"),
        ({"prompt": 3}, "invalid_prompt"),
        ({"prompt": {"1": None}}, "invalid_prompt"),
        ({"prompt": {"1": {"class_type": 5, "inputs": {}}}}, "invalid_prompt"),
        ({"prompt": {"1": {"class_type": "X", "inputs": []}}}, "invalid_prompt"),
        ({"prompt": {"1": {"class_type": "X", "inputs": None}}}, "invalid_prompt"),
        ({"prompt": {"1": {"class_type": "X"}}}, "invalid_prompt"),
        ({"partial_execution_targets": "1"}, "invalid_partial_execution_targets"),
        ({"partial_execution_targets": [1]}, "invalid_partial_execution_targets"),
    ],
)
def test_fields_that_would_harm_a_backend(fields: dict[str, Any], type: str) -> None:
    assert refusal(body(**fields)).type == type


@pytest.mark.parametrize(
    "data",
    [
        b'{"prompt": {}, "number": NaN}',
        b'{"prompt": {}, "number": Infinity}',
        b'{"prompt": {}, "number": 1e999}',
        b"{nope",
        b"",
        b"\xff",
        b'{"prompt": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_bodies_that_are_not_json(data: bytes) -> None:
    assert refusal(data).type == "invalid_json"


@pytest.mark.parametrize("data", [b"[1, 2]", b'"x"', b"{}", b"null"])
def test_bodies_without_a_prompt_are_refused_as_comfyui_does(data: bytes) -> None:
    assert refusal(data).type == "no_prompt"


def test_a_prompt_gets_an_id_if_it_has_none() -> None:
    first, second = parse_submission(body()), parse_submission(body(prompt_id=None))
    assert first.prompt_id != second.prompt_id
    assert parse_submission(body(prompt_id=ID)).prompt_id == ID


def test_what_is_sent_on_keeps_every_field_and_takes_our_number_and_id() -> None:
    submission = parse_submission(body(prompt_id=ID, client_id="c", extra_data={"a": 1}, front=True, more=[1.5, "é"]))
    sent = orjson.loads(submission.submission(-7))
    assert sent == {
        "prompt": PROMPT,
        "prompt_id": ID,
        "client_id": "c",
        "extra_data": {"a": 1},
        "front": True,
        "more": [1.5, "é"],
        "number": -7,
    }
    assert submission.front


def test_the_item_is_what_comfyui_lists_without_credentials() -> None:
    submission = parse_submission(body(prompt_id=ID, client_id="c", extra_data={"a": 1, "api_key_comfy_org": "secret"}))
    assert orjson.loads(submission.item(3, ["1"])) == [3, ID, PROMPT, {"a": 1, "client_id": "c"}, ["1"]]


def test_null_means_absent_where_it_does_to_comfyui() -> None:
    submission = parse_submission(body(client_id=None, partial_execution_targets=None))
    assert submission.client_id is None
    assert "client_id" not in submission.fields


def test_a_prompt_that_is_nested_too_deeply_is_refused() -> None:
    for depth in (300, 900, 2000):
        nested = b"[" * depth + b"]" * depth
        with pytest.raises(GateError) as caught:
            parse_submission(b'{"prompt": {"1": {"class_type": "A", "inputs": {"x": %s}}}}' % nested).validation()
        assert caught.value.status == 400


def test_a_prompt_can_be_given_another_number_later() -> None:
    submission = parse_submission(body(prompt_id=ID, front=True, client_id="c", extra_data={"a": [1, 2]}))
    for number in (-12.0, 7, 1e300):
        renewed = renumbered(submission.submission(3), submission.item(3, ["9"]), number)
        assert [orjson.loads(one) for one in renewed] == [
            orjson.loads(submission.submission(number)),
            orjson.loads(submission.item(number, ["9"])),
        ]
