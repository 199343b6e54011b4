"""Counts of one, of a few and of none, with their words."""

from __future__ import annotations

from kblam.counts import count_of, many


def test_a_count_has_the_word_that_goes_with_it() -> None:
    assert [count_of(count) for count in (0, 1, 2_000)] == ["0 triples", "1 triple", "2,000 triples"]
    assert many(1, "entity", "entities") == "1 entity"
    assert many(2, "entity", "entities") == "2 entities"
