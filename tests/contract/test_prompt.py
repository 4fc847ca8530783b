"""POST /prompt: what is accepted, what is refused, and how it is said."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.contract.comfyui_client import Target
from tests.contract.sample_prompts import empty_image, node, save

BAD_WIDTH = {"1": node("EmptyImage", width=-5, height=64, batch_size=1, color=1), "2": save()["2"]}


def refused(answer: Any) -> dict[str, Any]:
    assert answer.status == 400, answer.body
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert set(answer.json) == {"error", "node_errors"}
    assert set(answer.json["error"]) == {"type", "message", "details", "extra_info"}
    return dict(answer.json)


def test_an_accepted_prompt_is_answered_with_its_id_and_number(comfyui: Target) -> None:
    answer = comfyui.post("/prompt", {"prompt": save(), "client_id": "someone"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    prompt_id, number = answer.json["prompt_id"], answer.json["number"]
    assert answer.json == {"prompt_id": prompt_id, "number": number, "node_errors": {}} | comfyui.extra
    assert str(uuid.UUID(prompt_id)) == prompt_id
    again = comfyui.post("/prompt", {"prompt": save()}).json
    assert again["number"] > number


def test_the_client_may_choose_the_id_and_the_front(comfyui: Target) -> None:
    prompt_id = str(uuid.uuid4())
    body = {"prompt": save(), "prompt_id": prompt_id, "front": True, "extra_data": {"extra_pnginfo": {"workflow": {}}}}
    answer = comfyui.post("/api/prompt", body).json
    assert answer["prompt_id"] == prompt_id
    assert answer["number"] <= 0
    history = comfyui.wait(prompt_id)
    assert history["prompt"][1] == prompt_id
    assert history["prompt"][3]["extra_pnginfo"] == {"workflow": {}}


def test_the_client_may_choose_the_number(comfyui: Target) -> None:
    assert comfyui.post("/prompt", {"prompt": save(), "number": 2.5}).json["number"] == 2.5


@pytest.mark.parametrize(
    ("body", "type", "message", "details"),
    [
        ({"foo": 1}, "no_prompt", "No prompt provided", "No prompt provided"),
        ({"prompt": {}}, "prompt_no_outputs", "Prompt has no outputs", ""),
        ({"prompt": {"1": empty_image()}}, "prompt_no_outputs", "Prompt has no outputs", ""),
        (
            {"prompt": {"7": node("Nope")}},
            "invalid_prompt",
            "Cannot execute because node Nope does not exist.",
            "Node ID '#7'",
        ),
        (
            {"prompt": {"7": {"inputs": {}}}},
            "invalid_prompt",
            "Cannot execute because a node is missing the class_type property.",
            "Node ID '#7'",
        ),
        ({"prompt": save(), "partial_execution_targets": []}, "prompt_no_outputs", "Prompt has no outputs", ""),
    ],
)
def test_a_prompt_without_sense_is_refused(
    comfyui: Target, body: dict[str, Any], type: str, message: str, details: str
) -> None:
    told = refused(comfyui.post("/prompt", body))
    assert told["error"] == {"type": type, "message": message, "details": details, "extra_info": {}}
    assert told["node_errors"] == {}


def test_a_value_out_of_its_limits_names_the_node_and_the_input(comfyui: Target) -> None:
    told = refused(comfyui.post("/prompt", {"prompt": BAD_WIDTH}))
    assert told["error"]["type"] == "prompt_outputs_failed_validation"
    assert told["error"]["message"] == "Prompt outputs failed validation"
    assert told["error"]["details"] == ""
    reason = {
        "type": "value_smaller_than_min",
        "message": "Value -5 smaller than min of 1",
        "details": "width",
        "extra_info": {
            "input_name": "width",
            "input_config": ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}],
            "received_value": -5,
        },
    }
    assert told["node_errors"] == {"1": {"errors": [reason], "dependent_outputs": ["2"], "class_type": "EmptyImage"}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"width": None}, ("1", "invalid_input_type", "width, None, ")),
        ({"width": "wide"}, ("1", "invalid_input_type", "width, wide, invalid literal")),
        ({"width": 16385}, ("1", "value_bigger_than_max", "width")),
        ({"width": ["9", 0]}, ("1", "exception_during_inner_validation", "'9'")),
        ({"width": ["1"]}, ("1", "bad_linked_input", "width")),
        ({"images": ["1", 3]}, ("2", "exception_during_validation", "index out of range")),
        ({"images": ["1", 0, 0]}, ("2", "bad_linked_input", "images")),
        ({"filename_prefix": ["1", 0]}, ("2", "return_type_mismatch", "filename_prefix, received_type(IMAGE)")),
        ({"del": "filename_prefix"}, ("2", "required_input_missing", "filename_prefix")),
        ({"del": "height"}, ("1", "required_input_missing", "height")),
    ],
)
def test_each_kind_of_wrong_input_has_its_type(
    comfyui: Target, change: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    prompt = save()
    for name, value in change.items():
        for each in prompt.values():
            if name == "del":
                each["inputs"].pop(value, None)
            elif name in each["inputs"]:
                each["inputs"][name] = value
    told = refused(comfyui.post("/prompt", {"prompt": prompt}))
    found = {
        (node_id, reason["type"]): reason["details"]
        for node_id, error in told["node_errors"].items()
        for reason in error["errors"]
    }
    node_id, type, details = expected
    assert details in found[node_id, type]


def test_a_value_not_in_the_list_is_refused(comfyui: Target) -> None:
    prompt = save()
    prompt["3"] = node("ImageScale", image=["1", 0], upscale_method="magic", width=8, height=8, crop="disabled")
    prompt["2"]["inputs"]["images"] = ["3", 0]
    errors = refused(comfyui.post("/prompt", {"prompt": prompt}))["node_errors"]["3"]["errors"]
    assert [error["type"] for error in errors] == ["value_not_in_list"]
    assert "'magic' not in ['nearest-exact'" in errors[0]["details"]


def test_a_missing_input_file_is_refused(comfyui: Target) -> None:
    prompt = {"1": node("LoadImage", image="no-such.png"), "2": save()["2"]}
    errors = refused(comfyui.post("/prompt", {"prompt": prompt}))["node_errors"]["1"]["errors"]
    assert [error["type"] for error in errors] == ["custom_validation_failed"]
    assert errors[0]["details"] == "image - Invalid image file: no-such.png"


def test_good_outputs_run_though_others_are_bad(comfyui: Target) -> None:
    prompt = save()
    prompt["8"] = BAD_WIDTH["1"]
    prompt["9"] = node("PreviewImage", images=["8", 0])
    answer = comfyui.post("/prompt", {"prompt": prompt})
    assert answer.status == 200
    assert set(answer.json["node_errors"]) == {"8"}
    history = comfyui.wait(answer.json["prompt_id"])
    assert history["prompt"][4] == ["2"]
    assert set(history["outputs"]) == {"2"}


def test_only_the_targets_run(comfyui: Target) -> None:
    prompt = save()
    prompt["3"] = node("PreviewImage", images=["1", 0])
    prompt_id = comfyui.queue(prompt, partial_execution_targets=["3"])
    assert set(comfyui.wait(prompt_id)["outputs"]) == {"3"}


@pytest.mark.parametrize("body", [[1, 2], [], "text"])
def test_json_that_is_no_object_has_no_prompt(direct: Target, body: Any) -> None:
    assert refused(direct.post("/prompt", body))["error"]["type"] == "no_prompt"


@pytest.mark.parametrize(
    "body",
    [
        b"{nope",
        b"",
        b"null",
        b"7",
        {"prompt": None},
        {"prompt": 7},
        {"prompt": "text"},
        {"prompt": {"1": None}},
        {"prompt": {"1": {"class_type": []}}},
        {"prompt": save(), "number": "abc"},
        {"prompt": save(), "number": None},
        {"prompt": save(), "client_id": "a", "extra_data": []},
        {"prompt": save(), "client_id": "a", "extra_data": "text"},
        {"prompt": save(), "client_id": "a", "extra_data": None},
    ],
)
def test_what_breaks_the_handler_is_answered_500_and_closes(direct: Target, body: Any) -> None:
    answer = direct.post("/prompt", body)
    assert answer.status == 500
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["connection"] == "close"
    assert answer.body == b"500 Internal Server Error\n\nServer got itself in trouble"
    assert direct.get("/prompt").status == 200
