from __future__ import annotations

import orjson
import pytest
from attrs import evolve

from comfygate.journal.records import (
    BODIES,
    FINISHED,
    JOBS,
    RECORDS,
    DamagedRowError,
    body_row,
    finished_row,
    fitting,
    has_secrets,
    job_row,
    lost_body,
    read_finished,
    read_job_head,
    with_body,
)
from comfygate.model import JobState
from tests.journals import NOW, finished, make_job, record_of, running, waiting


@pytest.mark.parametrize("number", [7, -3, 0, 0.0, 2.5, 1e300])
def test_a_job_comes_back_as_it_was(number: float) -> None:
    noted = running(make_job(7, number=number, attempts=1, deaths=1, client_id=None, targets=frozenset({3, 1})), 3)
    assert with_body(read_job_head(job_row(noted)), body_row(noted.job)) == noted


def test_the_number_keeps_its_type_since_clients_see_it() -> None:
    job = make_job(7)
    read = with_body(read_job_head(job_row(waiting(job))), body_row(job)).job
    assert (read.item, type(read.number)) == (job.item, int)


def test_minus_zero_is_stored_as_zero_as_sqlite_does() -> None:
    row = job_row(waiting(make_job(7, number=-0.0)))
    assert str(row[2]) == "0.0"


@pytest.mark.parametrize("column", range(len(JOBS.columns)))
def test_no_column_of_a_job_can_change_unnoticed(column: int) -> None:
    row = list(job_row(waiting(make_job())))
    row[column] = "other" if row[column] is None else None
    with pytest.raises(DamagedRowError):
        read_job_head(row)


@pytest.mark.parametrize("column", range(len(BODIES.columns)))
def test_no_column_of_a_body_can_change_unnoticed(column: int) -> None:
    job = make_job()
    row = list(body_row(job))
    row[column] = b"other" if column == 2 else 5
    with pytest.raises(DamagedRowError):
        with_body(waiting(job), row)


@pytest.mark.parametrize("bit", range(8))
def test_no_bit_of_a_submission_can_change_unnoticed(bit: int) -> None:
    job = make_job()
    sequence, outputs, submission, crc = body_row(job)
    assert isinstance(submission, bytes)
    damaged = bytes([submission[0] ^ 1 << bit]) + submission[1:]
    with pytest.raises(DamagedRowError):
        with_body(waiting(job), (sequence, outputs, damaged, crc))


def test_a_body_is_not_taken_for_that_of_another_job() -> None:
    with pytest.raises(DamagedRowError, match="belongs to"):
        with_body(waiting(make_job(1, seed=1)), body_row(make_job(1, seed=2)))


def test_a_row_is_not_taken_for_one_of_another_table() -> None:
    row = JOBS.sealed(*range(12))
    assert JOBS.is_whole(row)
    assert not FINISHED.is_whole(row)
    assert not FINISHED.is_whole(row[1:])


def test_text_that_is_no_utf8_is_damage() -> None:
    row = list(job_row(waiting(make_job())))
    row[3] = b"hub\xff".decode("utf-8", "surrogateescape")
    with pytest.raises(DamagedRowError):
        read_job_head(row)


def test_a_finished_job_comes_back_as_it_was() -> None:
    ended = finished(make_job(), state=JobState.FAILED, reason="it is gone from GPU 0", gpu_id=None, record=None)
    assert read_finished(finished_row(5, ended)) == ended
    with pytest.raises(DamagedRowError):
        read_finished((*finished_row(5, ended)[:-1], 0))


def test_whose_a_job_was_is_known_from_its_body() -> None:
    job = make_job()
    ended = lost_body(body_row(job), NOW)
    assert ended is not None
    assert (ended.prompt_id, ended.client_id, ended.state) == (job.prompt_id, "someone", JobState.FAILED)
    assert lost_body((*body_row(job)[:-1], 0), NOW) is None


def test_a_record_that_fits_is_kept_as_it_is() -> None:
    record = record_of(make_job())
    assert fitting(record) is record
    assert fitting(None) is None


def test_a_large_record_keeps_outputs_and_status_in_the_shape_of_comfyui() -> None:
    job = make_job(size=5000)
    record = record_of(job)
    entry = orjson.loads(fitting(record, 1000) or b"")
    assert entry == {**orjson.loads(record), "prompt": [1, job.prompt_id, {}, {}, ["9"]]}


@pytest.mark.parametrize("record", [b"x" * 2000, b"[1" + b",1" * 1000 + b"]", orjson.dumps({"outputs": "x" * 2000})])
def test_what_cannot_be_made_smaller_is_left_out(record: bytes) -> None:
    assert fitting(record, 1000) is None


def test_outputs_that_are_large_themselves_are_left_out() -> None:
    entry = orjson.loads(record_of(make_job()))
    assert fitting(orjson.dumps({**entry, "outputs": {"9": "x" * 2000}}), 1000) is None


def test_credentials_are_seen() -> None:
    assert has_secrets(make_job(extra_data={"api_key_comfy_org": "secret"}).submission)
    assert has_secrets(make_job(extra_data={"auth_token_comfy_org": "secret"}).submission)
    assert not has_secrets(make_job().submission)


def test_records_are_sealed_too() -> None:
    row = RECORDS.sealed(5, b"{}")
    assert RECORDS.is_whole(row)
    assert not RECORDS.is_whole(evolve(RECORDS, name="other").sealed(5, b"{}"))


def test_a_job_that_was_moved_is_sent_under_its_new_number() -> None:
    job = make_job(7)
    moved = make_job(7, number=-3)
    assert with_body(read_job_head(job_row(waiting(moved))), body_row(job)) == waiting(moved)


def test_no_reason_keeps_the_journal_from_being_written() -> None:
    read = read_finished(finished_row(1, finished(make_job(), reason="caf\udce9.png")))
    assert read.reason == "caf\\udce9.png"
