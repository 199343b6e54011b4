"""Confidence: a logistic regression on the signs, and the shares of properties."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.adapter.confidence import Confidence, Signs

WEIGHTS = Confidence(mass=1.5, name=5, property=2, other=-1, share=0.5, bias=-3, best=0.7, beaten=-0.4)


def test_the_formula() -> None:
    signs = Signs(mass=0.8, name=1, property=0, other=1, share=-2, best=1, beaten=1)
    wanted = 1.5 * math.log(4) + 5 - 1 - 1 - 3 + 0.7 - 0.4
    assert WEIGHTS.of(signs) == pytest.approx(1 / (1 + math.exp(-wanted)))


def test_one_of_several_or_none() -> None:
    found = [Signs(0.5, 1, 0, 0, -2), Signs(0.8, 1, 0, 0, -3), Signs(0.01, 0, 1, 0, 0)]
    odds = [0.0, 5 - 1 - 3, 1.5 * math.log(4) + 5 - 1.5 - 3, 1.5 * math.log(1 / 99) + 2 - 3]
    total = sum(map(math.exp, odds))
    assert WEIGHTS.among(found) == pytest.approx([math.exp(one) / total for one in odds[1:]])
    assert WEIGHTS.among([]) == []


SIGNS = st.builds(
    Signs,
    mass=st.floats(0, 1),
    name=st.sampled_from([0.0, 1.0]),
    property=st.sampled_from([0.0, 1.0]),
    other=st.sampled_from([0.0, 1.0]),
    share=st.floats(-1e6, 0),
    best=st.sampled_from([0.0, 1.0]),
    beaten=st.sampled_from([0.0, 1.0]),
)


@given(st.lists(SIGNS, max_size=16), st.floats(-1e6, 1e6))
def test_probabilities_are_no_more_than_one_together(found: list[Signs], bias: float) -> None:
    odds = Confidence(mass=1, name=1, property=1, other=1, share=1e6, bias=bias, best=-1).among(found)
    assert all(0 <= one <= 1 for one in odds)
    assert math.fsum(odds) <= 1 + 1e-12


@given(st.floats(0, 1), st.floats(-1e6, 0), st.floats(-1e6, 1e6))
def test_it_is_a_share_whatever_the_signs(mass: float, share: float, bias: float) -> None:
    weights = Confidence(mass=1, name=1, property=1, other=1, share=1, bias=bias)
    assert 0 <= weights.of(Signs(mass, 1, 1, 1, share)) <= 1


def test_no_mass_is_as_bad_as_little_and_all_of_it_as_good_as_much() -> None:
    assert WEIGHTS.of(Signs(0, 1, 1, 0, 0)) == WEIGHTS.of(Signs(1e-5, 1, 1, 0, 0))
    assert WEIGHTS.of(Signs(1, 1, 1, 0, 0)) == WEIGHTS.of(Signs(0.99999, 1, 1, 0, 0))
