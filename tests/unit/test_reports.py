"""What a backend's companion has told of its memory."""

from __future__ import annotations

from comfygate.backend.reports import Reports
from comfygate.model import Holding


def test_a_backend_remembers_the_begins_of_the_last_prompts() -> None:
    reports = Reports()
    assert reports.last is None
    for number in range(20):
        reports.hear(Holding(prompt_id=str(number), models=(f"m{number}",), ended=False))
        reports.hear(Holding(prompt_id=str(number), models=("after",)))
    assert reports.last == Holding(prompt_id="19", models=("after",))
    assert reports.before.get("0") is None
    assert reports.before["19"] == ("m19",)
    reports.clear()
    assert (reports.last, dict(reports.before)) == (None, {})
