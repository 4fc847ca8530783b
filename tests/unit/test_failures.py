"""Failures in a row: what they say, and what is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from comfygate.control.failures import Failures, Remedy, Row, Symptom, symptom
from comfygate.errors import BackendUnclear
from comfygate.history import outcome
from comfygate.model import BackendState, Job, JobState, RestartCause
from tests.unit.fakes import House, raising

OOM = "KSampler: torch.OutOfMemoryError: Allocation on device"
OLD_OOM = "KSampler: torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
CUDA_OOM = "KSampler: torch.AcceleratorError: CUDA error: out of memory"
CUDA = "VAEDecode: RuntimeError: CUDA error: an illegal memory access was encountered"
HIP = "VAEDecode: RuntimeError: HIP error: an illegal memory access was encountered"
NEW_CUDA = "VAEDecode: torch.AcceleratorError: something went wrong"
CUBLAS = "CLIPTextEncode: RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"
LAUNCH = "KSampler: cupy_backends.cuda.api.runtime.CUDARuntimeError: cudaErrorLaunchFailure: unspecified"
OTHER = "KSampler: RuntimeError: the size of tensor a (64) must match the size of tensor b (32)"


@pytest.mark.parametrize("reason", [CUDA, HIP, NEW_CUDA, CUBLAS, LAUNCH])
def test_a_broken_context(reason: str) -> None:
    assert symptom(reason) is Symptom.BROKEN_CONTEXT


@pytest.mark.parametrize("reason", [OOM, OLD_OOM, CUDA_OOM])
def test_out_of_memory(reason: str) -> None:
    assert symptom(reason) is Symptom.OUT_OF_MEMORY


@pytest.mark.parametrize("reason", [OTHER, None, "", "lost 2 times, the last time by GPU 1"])
def test_other_failures_say_nothing(reason: str | None) -> None:
    assert symptom(reason) is None


def remedies(*reasons: str | None) -> list[Remedy | None]:
    """What is done after each; ``None`` stands for a success."""
    row = Row()
    return [row.ended_well() if reason is None else row.failed(reason) for reason in reasons]


def test_rows() -> None:
    assert remedies(CUDA, CUDA) == [None, Remedy.RESTART_BROKEN]
    assert remedies(CUDA, None, CUDA) == [None] * 3
    assert remedies(CUDA, OTHER, CUDA) == [None, None, Remedy.RESTART_BROKEN]
    assert remedies(OOM, OOM, OLD_OOM) == [None, Remedy.FREE, Remedy.RESTART_FULL]
    assert remedies(OOM, OOM, None, OOM, OOM) == [None, Remedy.FREE, None, None, Remedy.FREE]
    assert remedies(OOM, CUDA, OOM, CUDA) == [None] * 4


JOB = Job(prompt_id="p", number=1.0, sequence=1, gate="hub", targets=frozenset({0, 1}), expected=0)


@pytest.fixture
def house() -> Iterator[House]:
    yield House()


@pytest.fixture
def failures(house: House) -> Failures:
    made = Failures(house.books.fleet, house.clock)
    made.start()
    return made


def fail(failures: Failures, house: House, reason: str, gpu_id: int | None = 1) -> None:
    failures.job_changed(JOB, JobState.FAILED, gpu_id, reason, None)
    house.turn()


def test_a_broken_context_is_condemned(failures: Failures, house: House) -> None:
    fail(failures, house, CUDA)
    fail(failures, house, CUDA, gpu_id=0)
    fail(failures, house, CUDA, gpu_id=None)
    assert house.backends[1].condemned == []
    failures.job_changed(JOB, JobState.FAILED, 1, NEW_CUDA, None)
    assert house.backends[1].condemned == []  # in the middle of a change, nothing is done
    house.turn()
    assert house.backends[1].condemned == [
        (RestartCause.CUDA_ERROR, f"a CUDA error: 2 prompts in a row failed so, the last with: {NEW_CUDA}")
    ]
    assert house.backends[0].condemned == []


def test_memory_is_freed_first(failures: Failures, house: House) -> None:
    fail(failures, house, OOM)
    assert house.backends[1].client.asked == []
    fail(failures, house, OOM)
    assert house.backends[1].client.asked == ["free"]
    assert house.backends[1].condemned == []
    fail(failures, house, OOM)
    assert [cause for cause, _ in house.backends[1].condemned] == [RestartCause.OUT_OF_MEMORY]
    assert house.backends[1].client.asked == ["free"]


def test_a_success_and_a_new_process_end_the_row(failures: Failures, house: House) -> None:
    fail(failures, house, CUDA)
    failures.job_changed(JOB, JobState.DONE, 1, None, None)
    fail(failures, house, CUDA)
    house.backends[1].become(BackendState.DOWN)
    house.backends[1].become(BackendState.READY)
    fail(failures, house, CUDA)
    failures.job_changed(JOB, JobState.CANCELLED, 1, None, None)
    assert house.backends[1].condemned == []
    fail(failures, house, CUDA)
    assert len(house.backends[1].condemned) == 1


def test_freeing_that_fails(failures: Failures, house: House) -> None:
    house.backends[1].client.before["free"] = raising(BackendUnclear("no answer"))
    for _ in range(3):
        fail(failures, house, OOM)
    assert [cause for cause, _ in house.backends[1].condemned] == [RestartCause.OUT_OF_MEMORY]


def test_one_that_is_down_is_not_asked(failures: Failures, house: House) -> None:
    fail(failures, house, OOM)
    failures.job_changed(JOB, JobState.FAILED, 1, OOM, None)
    house.backends[1].become(BackendState.DOWN)
    house.turn()
    assert house.backends[1].condemned == []


def test_nothing_is_done_after_the_end(failures: Failures, house: House) -> None:
    failures.job_changed(JOB, JobState.FAILED, 1, CUDA, None)
    failures.job_changed(JOB, JobState.FAILED, 1, CUDA, None)
    failures.stop()
    house.turn()
    assert house.backends[1].condemned == []


def test_what_comfyui_writes_into_its_history_arrives() -> None:
    error = {
        "node_type": "VAEDecode",
        "exception_type": "torch.AcceleratorError",
        "exception_message": "CUDA error:\n x",
    }
    assert symptom(outcome({"status": {"messages": [["execution_error", error]]}}).reason) is Symptom.BROKEN_CONTEXT
    error = {"node_type": "KSampler", "exception_type": "torch.OutOfMemoryError", "exception_message": "Allocation"}
    assert symptom(outcome({"status": {"messages": [["execution_error", error]]}}).reason) is Symptom.OUT_OF_MEMORY
