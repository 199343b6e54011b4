"""Whose job is next, and who may have another one wait."""

from __future__ import annotations

import pytest

from kblam.serve.waiting import Waiting, is_full, together


def of(*jobs: str) -> Waiting[str]:
    """Jobs called by their tenant and a number."""
    waiting: Waiting[str] = Waiting()
    for job in jobs:
        waiting.append(job, job[0])
    return waiting


def order(waiting: Waiting[str]) -> list[str]:
    return [waiting.popleft() for _ in range(len(waiting))]


def test_tenants_take_turns_and_each_keeps_its_order() -> None:
    assert order(of("a1", "a2", "a3", "b1", "b2", "c1")) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_where_nobody_is_told_apart_it_is_first_come_first_served() -> None:
    waiting: Waiting[str] = Waiting()
    for job in ("first", "second", "third"):
        waiting.append(job, None)
    waiting.append("more of what was taken", None, first=True)
    assert order(waiting) == ["more of what was taken", "first", "second", "third"]


def test_who_comes_during_a_job_is_next() -> None:
    waiting = of("a1", "a2", "a3")
    assert waiting.popleft() == "a1"
    waiting.append("b1", "b")
    assert order(waiting) == ["b1", "a2", "a3"]


def test_who_comes_is_behind_those_that_wait() -> None:
    waiting = of("a1", "b1", "b2")
    assert (waiting.popleft(), waiting.popleft()) == ("a1", "b1")
    for job in ("c1", "a2"):
        waiting.append(job, job[0])
    assert order(waiting) == ["c1", "a2", "b2"]


def test_what_goes_on_comes_before_the_tenant_s_others_and_not_before_another_tenant_s() -> None:
    waiting = of("a1", "a2", "b1")
    assert waiting.popleft() == "a1"
    waiting.append("a1 again", "a", first=True)
    assert order(waiting) == ["b1", "a1 again", "a2"]


def test_what_is_left_out_is_not_counted() -> None:
    waiting = of("a1", "b1", "b2")
    waiting.remove("a1")
    assert (len(waiting), waiting.of("a"), waiting.of("b")) == (2, 0, 2)
    with pytest.raises(ValueError, match="does not wait"):
        waiting.remove("a1")
    waiting.clear()
    assert (len(waiting), waiting.of("b")) == (0, 0)
    with pytest.raises(KeyError):
        waiting.popleft()


@pytest.mark.parametrize(
    ("own", "all_jobs", "full"), [(15, 15, False), (16, 16, True), (1, 63, False), (1, 64, True), (0, 64, False)]
)
def test_a_tenant_has_its_share_and_one_that_has_none_always_a_place(own: int, all_jobs: int, full: bool) -> None:
    assert is_full(own, all_jobs, 16, together(16)) == full


def test_all_together_have_no_more_than_there_are_connections_for() -> None:
    assert [together(most) for most in (0, 16, 64, 200, 1000)] == [0, 64, 256, 256, 1000]
