"""The queue's order and bounds, and who shares work with whom, without a model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.generation import Prompt, Sampling
from jaxpaint.plans.plan import Plan
from jaxpaint.serve.queue import AT_ONCE, Queue, QueueFull, Stopped
from jaxpaint.serve.work import Job, Score, Write, shared

FULL, SKIP = Plan.parse("0-4"), Plan.parse("0 4")


def job(texts: int = 1, plan: Plan = FULL) -> Job:
    return Job(plan, Score(tuple((index,) for index in range(texts))))


def test_first_come_first_served_up_to_a_number() -> None:
    batches: list[Sequence[Job]] = []

    def do(jobs: Sequence[Job]) -> None:
        batches.append(jobs)
        for each in jobs:
            each.done.set_result([])

    queue = Queue(do, 4 * AT_ONCE)
    jobs = [job(AT_ONCE - 1), job(), job(), job(2 * AT_ONCE), job()]
    for each in jobs:
        queue.submit(each)
    assert queue.waiting == 3 * AT_ONCE + 2
    queue.start()
    jobs[-1].done.result(30)
    assert batches == [jobs[:2], jobs[2:3], jobs[3:4], jobs[4:]]
    queue.stop()


def test_the_room_is_that_of_what_somebody_still_wants() -> None:
    queue = Queue(lambda jobs: None, 3)
    first = job(2)
    queue.submit(first)
    with pytest.raises(QueueFull, match="2 prompts wait already, and at most 3 may"):
        queue.submit(job(2))
    first.done.cancel()
    queue.submit(job(3))
    with pytest.raises(UserError, match="4 prompts in one request"):
        queue.submit(job(4))


def test_what_goes_on_with_a_request_has_room() -> None:
    """A text that was written is also scored, whoever came meanwhile."""
    queue = Queue(lambda jobs: None, 3)
    queue.submit(job(3))
    queue.submit(job(2), goes_on=True)
    with pytest.raises(QueueFull, match="5 prompts wait already"):
        queue.submit(job())


def test_what_fails_is_told_and_the_thread_goes_on() -> None:
    def do(jobs: Sequence[Job]) -> None:
        if len(jobs[0].work) == 2:
            raise MemoryError("too much")
        jobs[0].done.set_result(["done"])

    queue = Queue(do, 9)
    queue.start()
    failing, other = job(2), job()
    queue.submit(failing)
    with pytest.raises(MemoryError):
        failing.done.result(30)
    queue.submit(other)
    assert other.done.result(30) == ["done"]
    queue.stop()


def test_stopping_tells_those_who_wait() -> None:
    queue = Queue(lambda jobs: None, 9)
    waiting = job()
    queue.submit(waiting)
    queue.stop()
    with pytest.raises(Stopped):
        waiting.done.result(0)
    with pytest.raises(Stopped):
        queue.submit(job())


def test_each_text_goes_with_those_asked_of_the_same_plans() -> None:
    one, two, three = (Job(plan, Score(())) for plan in (FULL, SKIP, FULL))
    groups = shared([(one, ["a", "b", "a"]), (two, ["a"]), (three, ["c", "a"])])
    both, single = groups
    assert (both.texts, both.plans) == (["a"], [FULL, SKIP])
    assert both.askers == {(0, 0): [(one, 0), (one, 2), (three, 1)], (1, 0): [(two, 0)]}
    assert (single.texts, single.plans) == (["b", "c"], [FULL])
    assert single.askers == {(0, 0): [(one, 1)], (0, 1): [(three, 0)]}


def test_plans_are_told_apart_whatever_order_they_come_in() -> None:
    """Two texts of the same two plans, asked the other way round."""
    one, two = Job(FULL, Score(())), Job(SKIP, Score(()))
    (group,) = shared([(one, ["a"]), (two, ["a", "b"]), (one, ["b"])])
    for (plan, text), askers in group.askers.items():
        assert [job.plan for job, _ in askers] == [group.plans[plan]], text


def test_a_job_is_done_when_all_its_texts_are() -> None:
    work = Job(FULL, Write((Prompt((1,), 2), Prompt((2,), 2)), Sampling()))
    work.found(1, "second")  # type: ignore[arg-type]
    assert not work.done.done()
    work.found(0, "first")  # type: ignore[arg-type]
    assert work.done.result(0) == ["first", "second"]
    left = job()
    left.done.cancel()
    left.found(0, "nobody's")  # type: ignore[arg-type]
    assert left.done.cancelled()
