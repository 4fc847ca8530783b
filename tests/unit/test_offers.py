"""What ComfyUIs offer, as one."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from comfygate.offers import compare, has_errors, is_lacking


def node(**inputs: Any) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": ["IMAGE"]}


def loader(*files: str, **options: Any) -> dict[str, Any]:
    return node(name=[list(files), options], strength=["FLOAT", {"min": 0}])


def prompt(**names: Any) -> dict[str, Any]:
    return {str(n): {"class_type": kind, "inputs": {"name": value}} for n, (kind, value) in enumerate(names.items())}


def compared(*infos: dict[str, Any]) -> Any:
    return compare([orjson.dumps(info) for info in infos])


def test_classes_and_choices_are_united_the_first_ones_first() -> None:
    found = compared(
        {"Load": loader("a", "b"), "Same": node()},
        {"Other": node(x=["INT"]), "Load": loader("b", "c", "a"), "Same": node()},
    )
    merged = orjson.loads(found.merged)
    assert list(merged) == ["Load", "Same", "Other"]
    assert merged["Load"] == loader("a", "b", "c")
    assert merged["Other"] == node(x=["INT"])


def test_choices_of_the_newer_kind_and_contradictions() -> None:
    def newer(*values: str) -> dict[str, Any]:
        return node(name=["COMBO", {"options": list(values), "tooltip": "x"}], n=["INT", {"max": len(values)}])

    found = compared({"A": newer("a")}, {"A": newer("b", "a") | {"category": "elsewhere"}})
    merged = orjson.loads(found.merged)["A"]
    assert merged["input"]["required"]["name"] == ["COMBO", {"options": ["a", "b"], "tooltip": "x"}]
    assert merged["input"]["required"]["n"] == ["INT", {"max": 1}] and "category" not in merged
    assert found.suitable(prompt(A="b")) == [False, True]
    # Whatever is of another shape is the first's.
    for other in (None, {"input": None}, {"input": {"required": []}}, node(name=[]), node(name=[["a"], 3])):
        assert orjson.loads(compared({"A": loader("x")}, {"A": other}).merged)["A"]["output"] == ["IMAGE"]


def test_a_prompt_fits_where_its_classes_and_values_are() -> None:
    found = compared(
        {"Load": loader("a", "b"), "Mine": node()},
        {"Load": loader("a", "c")},
        {"Load": loader("a", "b"), "Yours": node()},
    )
    assert found.suitable(prompt(Load="a")) == [True, True, True]
    assert found.suitable(prompt(Load="b")) == [True, False, True]
    assert found.suitable(prompt(Load="c", Mine="")) == [False, False, False]
    assert found.suitable(prompt(Mine="")) == [True, False, False]
    assert found.suitable(prompt(Unknown="", Load="unknown")) == [True, True, True]
    assert found.suitable(prompt(Load=["1", 0])) == [True, True, True]
    assert found.suitable({"1": {}}) == [True, True, True]


def test_uploaded_files_are_no_reason() -> None:
    found = compared({"Load": loader("a", image_upload=True)}, {"Load": loader("b", image_upload=True)})
    assert found.suitable(prompt(Load="b")) == [True, True]
    assert orjson.loads(found.merged)["Load"] == loader("a", "b", image_upload=True)


def test_numbers_that_are_no_json_are_kept_and_nonsense_is_refused() -> None:
    found = compare([b'{"A": {"max": Infinity}}', b'{"B": {"min": NaN}}'])
    assert b"B" in found.merged
    for nonsense in (b"[]", b"<html>"):
        with pytest.raises(ValueError):
            compare([b"{}", nonsense])


def refusal(kind: str, message: str = "", *reasons: str) -> bytes:
    nodes = {"1": {"errors": [{"type": reason} for reason in reasons]}} if reasons else {}
    return orjson.dumps({"error": {"type": kind, "message": message}, "node_errors": nodes})


@pytest.mark.parametrize(
    ("status", "body", "lacking"),
    [
        (400, refusal("missing_node_type"), True),
        (400, refusal("invalid_prompt", "Cannot execute because node X does not exist."), True),
        (400, refusal("invalid_prompt", "Cannot execute because a node is missing the class_type property."), False),
        (400, refusal("prompt_outputs_failed_validation", "", "value_not_in_list"), True),
        (400, refusal("prompt_outputs_failed_validation", "", "required_input_missing"), False),
        (400, refusal("prompt_no_outputs"), False),
        (200, b'{"node_errors": {"3": {"errors": [{"type": "value_not_in_list"}]}}}', True),
        (200, b'{"node_errors": {}}', False),
        (500, refusal("missing_node_type"), False),
        (400, b"no JSON", False),
        (400, b"[]", False),
        (400, b'{"node_errors": {"3": {}}}', False),
    ],
)
def test_what_one_lacks_another_may_have(status: int, body: bytes, lacking: bool) -> None:
    assert is_lacking(status, body) is lacking


def test_an_accepted_prompt_may_have_errors() -> None:
    assert has_errors(b'{"node_errors": {"3": {}}}')
    assert not has_errors(b'{"node_errors": {}}') and not has_errors(b"[]") and not has_errors(b"x")
