"""What ComfyUIs say of themselves, made one."""

from __future__ import annotations

from comfygate.control.merged.facts import merged_features, merged_stats


def test_the_devices_of_all_under_the_numbers_by_which_clients_know_them() -> None:
    answers = {
        0: {"system": {"ram_total": 8}, "devices": [{"name": "a", "index": 0}]},
        2: {"system": {"ram_total": 9}, "devices": [{"name": "b", "index": None}, "nonsense"]},
        3: {"system": {}},
    }
    assert merged_stats(answers) == {
        "system": {"ram_total": 8},
        "devices": [{"name": "a", "index": 0, "gpu_id": 0}, {"name": "b", "index": 2, "gpu_id": 2}],
    }


def test_what_all_can() -> None:
    one = {"flag": True, "size": 5, "name": "x", "deep": {"a": True, "b": 1}, "mine": 1, "mixed": 1, "half": 2.5}
    other = {"flag": False, "size": 3, "name": "y", "deep": {"a": True}, "mixed": True, "half": 3}
    assert merged_features([one, other]) == {"flag": False, "size": 3, "deep": {"a": True}, "half": 2.5}
    assert merged_features([one]) == one
