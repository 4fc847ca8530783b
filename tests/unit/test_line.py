"""The waiting jobs of a gate: what is built from them stays right, whatever comes and goes."""

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from attrs import evolve

from comfygate.line import Line, group_of
from comfygate.model import Job
from comfygate.routing.shares import Shares
from comfygate.testing import job


def test_heads_are_the_first_of_each_group_in_order() -> None:
    line = Line()
    one, two, three = job(models=["a"]), job(models=["b"]), job(models=["a"])
    for each in (three, two, one):
        line.add(each)
    assert list(line) == [one, two, three]
    assert list(line.heads()) == [one, two]
    assert line.alike(one) == 2
    line.remove(one)
    assert list(line.heads()) == [two, three]
    assert line.alike(job(models=["c"])) == 0
    assert (line[0], line[1:], len(line)) == (two, [three], 2)


def test_those_before_a_job_that_goes_are_overtaken_where_they_could_have_gone() -> None:
    pinned, first, second, last = job(targets=[1]), job(targets=[0, 1]), job(targets=[0]), job(targets=[0, 1])
    line = Line([last, second, first, pinned])
    line.hand_over(second, 0, 6.0)
    line.remove(second)
    assert [line.overtaken(each) for each in line] == [(0, 0.0), (1, 3.0), (0, 0.0)]
    assert line.patient(2, 10.0)
    assert not line.patient(1, 10.0)
    assert not line.patient(2, 3.0)
    assert list(line.overdue(1, 10.0)) == [first]
    assert list(line.overdue(5, 3.0)) == [first]


def test_what_does_not_wait_cannot_be_removed() -> None:
    line = Line([job()])
    with pytest.raises(KeyError):
        line.remove(job())


def test_a_line_is_taken_as_it_is_and_anything_else_is_put_in_order() -> None:
    line = Line()
    assert Line.of(line) is line
    late, early = job(number=9), job(number=1)
    assert list(Line.of([late, early])) == [early, late]


@pytest.mark.parametrize("seed", range(10))
def test_whatever_comes_and_goes_it_is_as_if_made_anew(seed: int) -> None:
    dice = random.Random(seed)
    line, there = Line(), list[Job]()
    overtaken: dict[str, int] = {}
    for step in range(300):
        if step == dice.randrange(100):
            line.heads()
            line.clients()
        if there and dice.random() < 0.45:
            gone = there.pop(dice.randrange(len(there)))
            if dice.random() < 0.7:
                gpu_id = dice.choice(sorted(gone.targets))
                line.hand_over(gone, gpu_id, 1.0)
                for other in there:
                    overtaken[other.prompt_id] += other.order < gone.order and gpu_id in other.targets
            line.remove(gone)
        else:
            new = job(
                number=dice.choice([None, -1.0, dice.uniform(0, 1000)]),
                targets=dice.choice([[0], [0, 1], [1]]),
                models=dice.choice([[], ["a"], ["b"], ["a", "b"]]),
                client_id=dice.choice([None, "x", "y"]),
            )
            there.append(new)
            overtaken[new.prompt_id] = 0
            line.add(new)
    fresh = Line(there)
    assert list(line) == list(fresh) == sorted(there, key=lambda each: each.order)
    assert list(line.heads()) == list(fresh.heads())
    assert all(line.alike(each) == fresh.alike(each) for each in there)
    assert all(line.overtaken(each)[0] == overtaken[each.prompt_id] for each in there)
    assert {key: list(own) for key, own in line.clients().items()} == {
        key: list(own) for key, own in fresh.clients().items()
    }
    assert {group_of(each) for each in there} == {group_of(each) for each in line.heads()}


@pytest.mark.parametrize("seed", range(10))
def test_a_copy_in_which_jobs_are_replaced_is_as_if_made_anew_but_for_who_was_overtaken(seed: int) -> None:
    dice = random.Random(seed)
    there = [job(client_id=dice.choice("xyz"), models=dice.choice([["a"], ["b"]]), targets=[0, 1]) for _ in range(50)]
    line = Line(there)
    line.hand_over(there[30], 0, 1.0)
    copy = line.copy()
    if seed % 2:
        copy.heads()
        copy.clients()
    for place in dice.sample(range(50), 20):
        there[place] = evolve(there[place], targets=frozenset({1}))
        copy.replace(there[place])
    fresh = Line(there)
    assert list(copy) == list(fresh)
    assert list(copy.heads()) == list(fresh.heads())
    assert {key: list(own) for key, own in copy.clients().items()} == {
        key: list(own) for key, own in fresh.clients().items()
    }
    assert [copy.overtaken(each)[0] for each in copy] == [1] * 30 + [0] * 20
    assert all(each.targets == {0, 1} for each in line)  # what was copied is as it was


def turns(line: Line, most: int) -> Iterator[Line]:
    """What :meth:`Line.turns` promises, one client after the other."""
    met: Counter[frozenset[int]] = Counter()
    for own in sorted(line.clients().values(), key=lambda own: (line.due(own[0].client), own[0].order)):
        met[own[0].targets] += 1
        if met[own[0].targets] <= most:
            yield own


@pytest.mark.parametrize("seed", range(20))
def test_clients_take_turns_by_what_they_had_and_by_their_first_jobs(seed: int) -> None:
    dice = random.Random(seed)
    shares = Shares()
    line = Line((), shares.due)
    for _ in range(200):
        if line and dice.random() < 0.45:
            gone = dice.choice(line[:])
            line.remove(gone)
            shares.charge(gone.client, dice.choice([1.0, 5.0]))
        else:
            number = dice.choice([None, -1.0, dice.uniform(0, 1000)])
            targets = dice.choice([[0], [0, 1], [1]])
            line.add(job(number=number, targets=targets, client_id=dice.choice("abcdefghijklmnop")))
        most = dice.randrange(1, 6)
        assert list(map(list, line.turns(most))) == list(map(list, turns(line, most)))
