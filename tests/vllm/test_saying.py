"""What a worker makes of logits for requests with a line; the same is asked of vLLM in `engine/test_verbatim.py`."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam.vllm.saying import Line, Sayings

VOCABULARY = 12
PROMPT = 3
END = 11
# "The color of A is red." and an end: the value begins at the third token.
LINE = Line(
    tokens=(5, 6, 7, 8, END),
    settled=(False, False, True, True, True),
    begun=(False, True, False, True, False),
    mass=0.3,
    facts=(4,),
    known=False,
    sure=False,
    refusal=(1, 2, 3, 4, 9, END),
)


def request(name: str, line: Line | None) -> Any:
    return SimpleNamespace(request_id=name, prompt_tokens=PROMPT, line=line)


def step(sayings: Sayings, one: Any, tokens: list[int], *, read: int = 0, now: float | None = None) -> Tensor:
    """Probabilities of a request's next token, after a step that reads its tokens from the `read`-th on."""
    turn = sayings.begin([one], [0, len(tokens) - read], [len(tokens)])
    if now is not None:
        assert turn is not None
        turn.now[0] = torch.tensor(now)
    sayings.hear(torch.tensor(tokens[read:]))
    return sayings.steer(torch.zeros(1, VOCABULARY)).softmax(-1)[0]


@pytest.fixture
def sayings() -> Sayings:
    return Sayings(torch.device("cpu"))


def test_a_plan_is_mixed_in_by_its_mass_until_its_value_and_then_said_to_the_end(sayings: Sayings) -> None:
    one, tokens = request("a", LINE), [0, 0, 0]
    uniform = 1 / VOCABULARY
    found = step(sayings, one, tokens)
    assert found[5] == pytest.approx(0.7 * uniform + 0.3)
    assert found[0] == pytest.approx(0.7 * uniform)
    for said, wanted in zip((5, 6, 7, 8), (6, 7, 8, END), strict=True):
        tokens.append(said)
        found = step(sayings, one, tokens, read=len(tokens) - 1)
        assert found[wanted] == pytest.approx(0.7 * uniform + 0.3 if wanted == 6 else 1)
    tokens.append(END)
    assert step(sayings, one, tokens, read=len(tokens) - 1)[0] == pytest.approx(uniform)


def test_attention_to_the_planned_triples_at_a_token_counts_if_it_is_more(sayings: Sayings) -> None:
    one = request("a", LINE)
    assert step(sayings, one, [0, 0, 0], now=0.1)[5] == pytest.approx(0.7 / VOCABULARY + 0.3)
    # More than half, and a name that has begun is finished.
    assert step(sayings, one, [0, 0, 0, 5], read=3, now=0.6)[6] == pytest.approx(1)


def test_a_sure_plan_is_said_whatever_the_model_wants(sayings: Sayings) -> None:
    one = request("a", dataclasses.replace(LINE, sure=True, known=True))
    assert step(sayings, one, [0, 0, 0])[5] > 0.9999
    assert not one.line.asks_attention
    assert LINE.asks_attention


def test_who_leaves_the_plan_is_the_models_alone_for_good(sayings: Sayings) -> None:
    one = request("a", LINE)
    step(sayings, one, [0, 0, 0])
    assert step(sayings, one, [0, 0, 0, 8], read=3)[6] == pytest.approx(1 / VOCABULARY)
    assert step(sayings, one, [0, 0, 0, 8, 6], read=4)[7] == pytest.approx(1 / VOCABULARY)


def test_who_begins_the_refusal_says_all_of_it(sayings: Sayings) -> None:
    one, tokens = request("a", LINE), [0, 0, 0]
    step(sayings, one, tokens)
    for said in (1, 2, 3):
        tokens.append(said)
        found = step(sayings, one, tokens, read=len(tokens) - 1)
        assert found.max() == pytest.approx(1 / VOCABULARY)
    for said, wanted in ((4, 9), (9, END)):
        tokens.append(said)
        assert step(sayings, one, tokens, read=len(tokens) - 1)[wanted] == pytest.approx(1)


def test_a_request_that_was_put_off_goes_on_where_it_was(sayings: Sayings) -> None:
    one = request("a", LINE)
    step(sayings, one, [0, 0, 0])
    step(sayings, one, [0, 0, 0, 5], read=3)
    # All again, in two pieces; the first chooses no token.
    turn = sayings.begin([one], [0, 2], [2])
    assert turn is None
    assert step(sayings, one, [0, 0, 0, 5, 6], read=2)[7] == pytest.approx(1)
    # And with a prefix that a cache has.
    assert step(sayings, one, [0, 0, 0, 5, 6, 7], read=5)[8] == pytest.approx(1)


def test_requests_keep_apart_and_a_place_that_is_free_begins_anew(sayings: Sayings) -> None:
    strayed, follows, plain = request("a", LINE), request("b", LINE), request("c", None)
    sayings.begin([strayed, plain, follows], [0, 3, 6, 9], [3, 3, 3])
    sayings.hear(torch.zeros(9, dtype=torch.int64))
    sayings.steer(torch.zeros(3, VOCABULARY))
    batch = [strayed, plain, follows, None]
    sayings.begin(batch, [0, 1, 2, 3, 3], [4, 4, 4, 0])
    sayings.hear(torch.tensor([9, 5, 5]))
    found = sayings.steer(torch.zeros(4, VOCABULARY)).softmax(-1)
    assert found[0].max() == found[1].max() == pytest.approx(1 / VOCABULARY)
    assert found[2, 6] == pytest.approx(0.7 / VOCABULARY + 0.3)
    sayings.end(["a", "nobody"])
    assert step(sayings, request("d", LINE), [0, 0, 0])[5] > 0.3


def test_only_the_logits_that_a_token_is_chosen_from_are_changed(sayings: Sayings) -> None:
    sayings.begin([request("a", LINE)], [0, 3], [3])
    sayings.hear(torch.zeros(3, dtype=torch.int64))
    assert not torch.equal(sayings.steer(torch.zeros(1, VOCABULARY)), torch.zeros(1, VOCABULARY))
    # Those of the prompt's tokens, which vLLM computes in the same step.
    assert torch.equal(sayings.steer(torch.zeros(2, VOCABULARY)), torch.zeros(2, VOCABULARY))


def test_a_certain_token_leaves_no_other_a_chance_in_any_precision(sayings: Sayings) -> None:
    one = request("a", LINE)
    step(sayings, one, [0, 0, 0])
    sayings.begin([one], [0, 2], [5])
    sayings.hear(torch.tensor([5, 6]))
    found = sayings.steer(torch.randn(1, VOCABULARY, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
    assert found[0, 7] == 0
    assert all(found[0, at] == -math.inf for at in range(VOCABULARY) if at != 7)
