"""What benchmarks/proxy makes of what it has measured."""

import os
import time
from pathlib import Path

import orjson
import pytest

from benchmarks.proxy import load
from benchmarks.proxy.catalogue import PROMISES, SCENARIOS
from benchmarks.proxy.course import Found
from benchmarks.proxy.processor import memory, watched
from benchmarks.proxy.report import judge, kept, median, plot, ratio, ratio_of_added, save, table
from benchmarks.proxy.scenario import MeasuringError, Promise

NAN = float("nan")
FOUND: Found = {
    "GET": {
        "direct": [{"requests/s": 30.0, "p50 ms": 1.0, "CPU": NAN}, {"requests/s": 10.0, "p50 ms": 2.0}],
        "nginx-tuned": [{"requests/s": 10.0, "p50 ms": 2.0, "CPU": 3.0}, {"requests/s": 4.0, "p50 ms": 4.0}],
        "comfygate": [{"requests/s": 9.0, "p50 ms": 2.5, "CPU": 6.0}, {"requests/s": 4.0, "p50 ms": 5.0}, {}],
    }
}


def test_what_wrk_says_is_read() -> None:
    said = 'Running 2s test\n{"requests": 500, "seconds": 2.0, "p50": 0.1, "p99": 0.5, "refused": 0, "lost": 0}\n'
    assert load.read(said) == load.Small(500, 2.0, 0.1, 0.5)
    assert load.read(said).rate == 250.0


@pytest.mark.parametrize(
    "said",
    [
        "unable to connect to 127.0.0.1:1",
        '{"requests": 0, "seconds": 2.0, "p50": 0.1, "p99": 0.5, "refused": 0, "lost": 0}',
        '{"requests": 500, "seconds": 2.0, "p50": 0.1, "p99": 0.5, "refused": 1, "lost": 0}',
        '{"requests": 500, "seconds": 2.0, "p50": 0.1, "p99": 0.5, "refused": 0, "lost": 9}',
    ],
)
def test_answers_that_are_missing_or_refused_are_no_figures(said: str) -> None:
    with pytest.raises(MeasuringError):
        load.read(said)


def test_a_script_makes_each_address_another() -> None:
    script = load.lua("/view?filename=x_%d_.png", b'a"\\', {"Accept": "*/*"}, different=7)
    assert 'wrk.headers["Accept"] = "*/*"' in script
    assert 'wrk.body = "\\097\\034\\092"' in script
    assert "count = (count + 1) % 7" in script
    assert """wrk.format(nil, "/view?filename=x_" .. string.format('%05d', count) .. "_.png")""" in script


def test_ratios_are_taken_within_each_pair() -> None:
    assert ratio([9.0, 4.0], [10.0, 4.0]) == pytest.approx(0.95)
    assert ratio([9.0, None, 5.0], [10.0, 1.0, None]) == pytest.approx(0.9)
    assert ratio([], [1.0]) is None
    assert ratio([1.0], [0.0]) is None


def test_what_is_added_is_compared_where_it_can_be_seen() -> None:
    assert ratio_of_added([2.5, 5.0], [2.0, 4.0], [1.0, 2.0]) == pytest.approx(1.5)
    assert ratio_of_added([2.5], [0.9], [1.0]) is None
    assert ratio_of_added([], [0.9], [1.0]) is None


def test_medians_are_of_what_there_is() -> None:
    assert median([]) is None
    assert median([None, 3.0, 1.0]) == 2.0


def test_a_table_shows_medians_and_ratios() -> None:
    lines = table(FOUND).splitlines()
    assert lines[0] == "| | | direct | nginx-tuned | comfygate | to tuned |"
    assert lines[2] == "| GET | requests/s | 20 | 7 | 6.5 | 0.95 |"
    assert lines[4] == "|  | CPU |  | 3 | 6 | 2.00 |"


def test_promises_are_judged() -> None:
    promises = [
        Promise("rate", "GET", "requests/s", 0.85, "nginx-tuned", at_least=True),
        Promise("added latency", "GET", "p50 ms", 1.2, "nginx-tuned", less="direct"),
        Promise("absolute", "GET", "CPU", 64),
        Promise("another", "POST", "CPU", 64),
    ]
    verdicts = judge(FOUND, promises)
    assert [one.kept for one in verdicts] == [True, False, True, False]
    assert str(verdicts[0]) == "ok     rate: 0.95 of nginx-tuned (at least 0.85 of nginx-tuned)"
    assert str(verdicts[1]) == "MISSES added latency: 1.5 of nginx-tuned (at most 1.2 of nginx-tuned)"
    assert str(verdicts[3]).startswith("not measured")


def test_everything_is_written_down(tmp_path: Path) -> None:
    promise = Promise("absolute", "GET", "CPU", 64)
    save(tmp_path / "results.json", FOUND, judge(FOUND, [promise]), {"pairs": 2})
    assert table(kept(tmp_path / "results.json")) == table(FOUND)
    written = orjson.loads((tmp_path / "results.json").read_bytes())
    assert written["medians"]["GET"]["comfygate"] == {"requests/s": 6.5, "p50 ms": 3.75, "CPU": 6.0}
    assert written["promises"] == [{"what": "absolute", "found": 6.0, "bound": 64, "kept": True}]
    assert written["machine"]["cores"] and written["date"] and written["how"] == {"pairs": 2}
    plot(tmp_path / "ratios.svg", FOUND, [("GET", "requests/s"), ("POST", "CPU")])
    assert ">0.95</text>" in (tmp_path / "ratios.svg").read_text()


def test_a_process_is_watched() -> None:
    with watched([os.getpid()]) as used:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
    assert 0.02 <= used.cpu <= 1.0
    assert memory([os.getpid()]).rss > memory([os.getpid()]).pss * 0.5 > 0


def test_every_promise_is_measured_and_every_scenario_has_a_name_of_its_own() -> None:
    names = [scenario.name for scenario in SCENARIOS]
    assert len(set(names)) == len(names)
    assert {promise.scenario for promise in PROMISES} <= set(names)
