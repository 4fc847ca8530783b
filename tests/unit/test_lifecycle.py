"""The lifecycle of a backend, with a clock that stands still and a process that is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.task import Clock

from comfygate.backend import picture
from comfygate.backend.lifecycle import Lifecycle
from comfygate.backend.record import DEATHS, STABLE, Attempt, Events, Record
from comfygate.model import BackendState, RestartCause

STOPPED, STARTING, READY, DOWN, FAILED, STOPPING = (
    BackendState.STOPPED,
    BackendState.STARTING,
    BackendState.READY,
    BackendState.DOWN,
    BackendState.FAILED,
    BackendState.STOPPING,
)


class World:
    """A process that does what a test says, and a list of what was done to it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.done: list[str | BackendState] = []
        self.on_change: list[object] = []
        self.record = Record(
            clock=self.clock, effects=self, start_timeout=100, stop_grace=5, delays=lambda n: float(2**n)
        )
        self.life = Lifecycle(self.record)
        self.events: Events

    def attempt(self, events: Events) -> Attempt:
        self.events = events
        self.done.append("launch")
        return self

    def terminate(self) -> None:
        self.done.append("terminate")

    def kill(self) -> None:
        self.done.append("kill")

    def changed(self) -> None:
        self.done.append(self.record.state)
        for act in self.on_change:
            act()  # type: ignore[operator]

    def took(self) -> list[str | BackendState]:
        """What was done since the last question."""
        done, self.done = self.done, []
        return done

    def become_ready(self) -> None:
        self.life.start()
        self.events.ready()
        self.took()

    @property
    def timers(self) -> int:
        return len(self.clock.getDelayedCalls())


@pytest.fixture
def world() -> World:
    return World()


def test_start_and_ready(world: World) -> None:
    world.life.start()
    assert world.took() == ["launch", STARTING]
    world.events.ready()
    assert world.took() == [READY]
    assert world.record.reason is None
    world.life.start()
    assert world.took() == []


def test_a_crash_is_followed_by_a_delay_and_a_restart(world: World) -> None:
    world.become_ready()
    world.events.exited("killed by signal 9")
    assert world.took() == [DOWN]
    assert world.record.reason == "killed by signal 9"
    assert world.record.retry_at == 1.0
    assert world.timers == 1
    world.clock.advance(0.9)
    assert world.took() == []
    world.clock.advance(0.1)
    assert world.took() == ["launch", STARTING]
    assert world.record.reason == "killed by signal 9"
    assert world.record.starts == 2


def test_delays_grow_until_it_was_ready_for_long(world: World) -> None:
    world.become_ready()
    for delay in (1, 2, 4):
        world.events.exited("exit status 1")
        world.clock.advance(delay - 0.01)
        assert world.record.state is DOWN
        world.clock.advance(0.01)
        world.events.ready()
    world.clock.advance(STABLE)
    world.events.exited("exit status 1")
    world.clock.advance(1)
    assert world.record.state is STARTING


def test_deaths_before_ready_in_a_row_are_final(world: World) -> None:
    world.life.start()
    for death in range(1, DEATHS):
        world.events.exited("exit status 1")
        assert world.record.state is DOWN
        assert world.record.early == death
        world.clock.advance(100)
    world.took()
    world.events.exited("exit status 3")
    assert world.took() == [FAILED]
    assert world.record.reason == "exit status 3"
    assert world.timers == 0


def test_being_ready_ends_the_row(world: World) -> None:
    world.life.start()
    for _ in range(DEATHS - 1):
        world.events.exited("exit status 1")
        world.clock.advance(100)
    world.events.ready()
    world.events.exited("exit status 1")
    assert world.record.state is DOWN
    assert world.record.early == 0


def test_a_failed_one_can_be_started_afresh(world: World) -> None:
    world.life.start()
    for _ in range(DEATHS):
        world.events.exited("exit status 1")
        world.clock.advance(100)
    assert world.record.state is FAILED
    world.life.start()
    world.events.exited("exit status 1")
    assert world.record.state is DOWN
    assert world.record.early == 1
    assert world.record.retry_at == world.clock.seconds() + 1


def test_not_ready_in_time_counts_as_a_death(world: World) -> None:
    world.life.start()
    world.took()
    world.clock.advance(100)
    assert world.took() == ["kill"]
    assert world.record.state is STARTING
    world.events.ready()
    assert world.took() == []
    world.events.exited("killed by signal 9")
    assert world.took() == [DOWN]
    assert world.record.reason == "was not ready after 100 s"
    assert world.record.early == 1


@pytest.mark.parametrize("settled", [False, True])
def test_stop_asks_then_kills(world: World, settled: bool) -> None:
    world.become_ready()
    world.clock.advance(STABLE if settled else 0)
    done = world.life.stop()
    assert world.took() == [STOPPING, "terminate"]
    world.clock.advance(4.9)
    assert world.took() == []
    world.clock.advance(0.1)
    assert world.took() == ["kill"]
    assert not done.called
    world.events.exited("killed by signal 9")
    assert world.took() == [STOPPED]
    assert done.called
    assert world.timers == 0


def test_stop_of_one_that_obeys(world: World) -> None:
    world.become_ready()
    first, second = world.life.stop(), world.life.stop()
    world.events.exited("exit status 0")
    assert world.took() == [STOPPING, "terminate", STOPPED]
    assert first.called and second.called
    assert world.timers == 0


def test_stop_while_starting(world: World) -> None:
    world.life.start()
    done = world.life.stop()
    world.events.ready()
    world.life.start()
    world.events.exited("killed by signal 2")
    assert world.took() == ["launch", STARTING, STOPPING, "terminate", STOPPED]
    assert done.called
    assert world.timers == 0


def test_stop_while_overdue(world: World) -> None:
    world.life.start()
    world.clock.advance(100)
    done = world.life.stop()
    assert world.took() == ["launch", STARTING, "kill", STOPPING]
    world.events.exited("killed by signal 9")
    assert done.called
    assert world.timers == 0


def test_stop_while_down(world: World) -> None:
    world.become_ready()
    world.events.exited("exit status 1")
    done = world.life.stop()
    assert done.called
    assert world.record.state is STOPPED
    assert world.timers == 0


def test_stop_when_nothing_runs(world: World) -> None:
    assert world.life.stop().called
    assert world.took() == []
    world.life.start()
    for _ in range(DEATHS):
        world.events.exited("exit status 1")
        world.clock.advance(100)
    assert world.life.stop().called
    assert world.record.state is STOPPED


def test_start_after_stop(world: World) -> None:
    world.become_ready()
    world.life.stop()
    world.events.exited("exit status 0")
    world.took()
    world.life.start()
    assert world.took() == ["launch", STARTING]


def test_a_listener_may_stop_it_at_once(world: World) -> None:
    world.life.start()
    world.on_change.append(lambda: world.record.state is READY and world.life.stop())
    world.took()
    world.events.ready()
    assert world.took() == [READY, STOPPING, "terminate"]
    world.events.exited("exit status 0")
    assert world.timers == 0


def test_a_process_that_ends_as_it_is_launched(world: World) -> None:
    launch = world.attempt

    def attempt(events: Events) -> Attempt:
        launched = launch(events)
        events.exited("cannot start")
        return launched

    world.attempt = attempt  # type: ignore[method-assign]
    world.life.start()
    assert world.took() == ["launch", STARTING, DOWN]


@pytest.mark.parametrize("settled", [False, True])
def test_a_condemned_one_is_killed_judged_and_restarted(world: World, settled: bool) -> None:
    world.become_ready()
    world.clock.advance(STABLE if settled else 0)
    world.life.condemn(RestartCause.HUNG, "hung: no answer")
    assert world.took() == [STOPPING, "kill"]
    assert world.record.cause is RestartCause.HUNG
    world.clock.advance(1000)  # however long that takes
    world.life.start()
    world.events.ready()
    world.life.condemn(RestartCause.STALLED, "too late")
    assert world.took() == []
    world.events.exited("killed by signal 9")
    assert world.took() == [DOWN]
    assert world.record.reason == "hung: no answer"
    assert world.record.cause is RestartCause.HUNG
    world.clock.advance(1)
    assert world.took() == ["launch", STARTING]
    assert world.record.restarts == {RestartCause.HUNG: 1}
    world.events.ready()
    assert world.record.reason is None


def test_condemnations_in_a_row_are_judged_like_deaths(world: World) -> None:
    world.become_ready()
    for delay in (1, 2, 4):
        world.life.condemn(RestartCause.HUNG, "hung")
        world.events.exited("killed by signal 9")
        world.clock.advance(delay - 0.01)
        assert world.record.state is DOWN
        world.clock.advance(0.01)
        world.events.ready()


def test_only_what_serves_can_be_condemned(world: World) -> None:
    def condemn() -> None:
        world.life.condemn(RestartCause.HUNG, "hung")

    condemn()
    world.life.start()
    condemn()
    world.clock.advance(100)
    condemn()
    world.events.exited("killed by signal 9")
    condemn()
    world.life.stop()
    assert world.took() == ["launch", STARTING, "kill", DOWN, STOPPED]


def test_a_stop_wins_over_a_condemnation(world: World) -> None:
    world.become_ready()
    world.life.condemn(RestartCause.HUNG, "hung")
    assert world.record.wanted
    done = world.life.stop()
    assert not world.record.wanted
    world.events.exited("killed by signal 9")
    assert world.took() == [STOPPING, "kill", STOPPED]
    assert done.called
    assert world.timers == 0


def test_restart_of_one_that_serves(world: World) -> None:
    world.become_ready()
    done = world.life.restart()
    assert world.took() == [STOPPING, "terminate"]
    world.events.exited("exit status 0")
    assert world.took() == [DOWN]  # nothing of it is left: its jobs go back now
    assert world.record.cause is RestartCause.REQUESTED
    assert not done.called
    world.clock.advance(0)
    assert world.took() == ["launch", STARTING]
    assert done.called
    assert world.record.restarts == {RestartCause.REQUESTED: 1}


def test_restart_insists(world: World) -> None:
    world.become_ready()
    world.life.restart()
    world.clock.advance(5)
    assert world.took() == [STOPPING, "terminate", "kill"]
    world.events.exited("killed by signal 9")
    world.clock.advance(0)
    assert world.took() == [DOWN, "launch", STARTING]
    assert world.record.restarts == {RestartCause.REQUESTED: 1}


def test_restart_of_a_settled_and_of_a_starting_one(world: World) -> None:
    world.become_ready()
    world.clock.advance(STABLE)
    for _ in range(2):  # the second time it is starting
        world.life.restart()
        world.events.exited("exit status 0")
        world.clock.advance(0)
        assert world.took() == [STOPPING, "terminate", DOWN, "launch", STARTING]
    assert world.record.early == world.record.failures == 0
    assert world.record.restarts == {RestartCause.REQUESTED: 2}


def test_restart_of_one_that_is_late(world: World) -> None:
    world.life.start()
    world.clock.advance(100)
    done = world.life.restart()
    assert world.took() == ["launch", STARTING, "kill", STOPPING, "kill"]
    world.events.exited("killed by signal 9")
    world.clock.advance(0)
    assert world.took() == [DOWN, "launch", STARTING]
    assert done.called
    assert world.record.restarts == {RestartCause.REQUESTED: 1}


def test_restart_of_one_that_is_down_or_failed_begins_with_a_clean_record(world: World) -> None:
    world.life.start()
    for _ in range(DEATHS - 1):
        world.events.exited("exit status 1")
        assert world.life.restart().called
    assert world.record.state is STARTING
    assert world.record.restarts == {RestartCause.REQUESTED: DEATHS - 1}
    for _ in range(DEATHS):
        world.events.exited("exit status 1")
        world.clock.advance(100)
    assert world.record.state is FAILED
    assert world.life.restart().called
    assert (world.record.state, world.record.early, world.record.failures) == (STARTING, 0, 0)
    assert world.timers == 1  # for the start


def test_restart_of_one_that_is_stopped(world: World) -> None:
    assert world.life.restart().called
    assert world.took() == ["launch", STARTING]
    assert world.record.restarts == {}  # it is its first
    world.life.stop()
    world.events.exited("exit status 0")
    assert world.life.restart().called
    assert world.record.restarts == {RestartCause.REQUESTED: 1}


def test_restart_of_a_condemned_one_keeps_its_cause(world: World) -> None:
    world.become_ready()
    world.record.failures = 5
    world.life.condemn(RestartCause.HUNG, "hung")
    done = world.life.restart()
    world.events.exited("killed by signal 9")
    world.clock.advance(1)
    assert world.took() == [STOPPING, "kill", DOWN, "launch", STARTING]
    assert done.called
    assert world.record.restarts == {RestartCause.HUNG: 1}


@pytest.mark.parametrize("first", ["stop", "restart"])
def test_a_stop_wins_over_a_restart(world: World, first: str) -> None:
    world.become_ready()
    second = "restart" if first == "stop" else "stop"
    done = [getattr(world.life, name)() for name in (first, second, "restart", first)]
    world.clock.advance(4)
    world.events.exited("exit status 0")
    world.clock.advance(100)
    assert world.took() == [STOPPING, "terminate", STOPPED]
    assert all(one.called for one in done)
    assert world.timers == 0


def test_a_stop_while_a_restart_kills(world: World) -> None:
    world.become_ready()
    done = world.life.restart()
    world.clock.advance(5)
    world.life.stop()
    world.events.exited("killed by signal 9")
    assert world.took() == [STOPPING, "terminate", "kill", STOPPED]
    assert done.called
    assert world.timers == 0


def test_the_cause_of_each_way_down(world: World) -> None:
    world.life.start()
    world.events.exited("exit status 1")
    assert world.record.cause is RestartCause.START_FAILED
    world.clock.advance(1)
    world.clock.advance(100)
    world.events.exited("killed by signal 9")
    assert world.record.cause is RestartCause.START_TIMEOUT
    world.clock.advance(2)
    world.events.ready()
    world.events.exited("killed by signal 11")
    assert world.record.cause is RestartCause.EXITED
    world.clock.advance(4)
    world.events.ready()
    world.life.stop()
    assert world.record.cause is RestartCause.REQUESTED
    assert world.record.restarts == {
        RestartCause.START_FAILED: 1,
        RestartCause.START_TIMEOUT: 1,
        RestartCause.EXITED: 1,
    }


def test_the_picture_is_that_of_the_machine() -> None:
    path = Path(__file__).parents[2] / "docs" / "lifecycle.md"
    assert path.read_text() == picture.page(), "run: python -m comfygate.backend.picture > docs/lifecycle.md"


def test_the_picture_shows_every_state() -> None:
    shown = {name for old, _, new in picture.transitions() for name in (old, new)}
    assert shown == set(
        "Stopped Starting Overdue Ready Settled Judging Down Failed Restarting Condemned Stopping Killing".split()  # noqa: SIM905
    )
