"""How answers to a quiz are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kblam.data.quiz import Fact, Question


@dataclass(frozen=True)
class Outcome:
    """What the model did with one question: its text, the triple it rested on most, whether it refused."""

    text: str
    best: Fact | None
    refused: bool


@dataclass(frozen=True)
class Figures:
    """Scores of a quiz, all between 0 and 1.

    Args:
        exact: answerable questions whose whole answer is right, to the letter (case aside).
        exact_single, exact_pair: the same for questions about one and about two facts.
        top1: answerable questions whose strongest evidence is a fact that was asked for.
        refusal_precision: refusals that were right to refuse.
        refusal_recall: unanswerable questions that were refused.
        refusal_f1: harmonic mean of the two.
        questions: how many there were.
    """

    exact: float
    exact_single: float
    exact_pair: float
    top1: float
    refusal_precision: float
    refusal_recall: float
    refusal_f1: float
    questions: int

    def to_dict(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


def _same(text: str, expected: str) -> bool:
    return " ".join(text.lower().split()) == " ".join(expected.lower().split())


def _share(hits: int, of: int) -> float:
    return hits / of if of else 1.0


def score(questions: Sequence[Question], outcomes: Sequence[Outcome]) -> Figures:
    """Compares outcomes with what was asked; `questions` and `outcomes` go together one by one."""
    pairs = list(zip(questions, outcomes, strict=True))
    answerable = [(question, outcome) for question, outcome in pairs if question.facts]
    right = [(question, _same(outcome.text, question.answer)) for question, outcome in answerable]
    single = [ok for question, ok in right if len(question.facts) == 1]
    double = [ok for question, ok in right if len(question.facts) == 2]
    refused = [question for question, outcome in pairs if outcome.refused]
    rightly = sum(not question.facts for question in refused)
    precision = _share(rightly, len(refused))
    recall = _share(rightly, len(pairs) - len(answerable))
    return Figures(
        exact=_share(sum(ok for _, ok in right), len(right)),
        exact_single=_share(sum(single), len(single)),
        exact_pair=_share(sum(double), len(double)),
        top1=_share(sum(outcome.best in question.facts for question, outcome in answerable), len(answerable)),
        refusal_precision=precision,
        refusal_recall=recall,
        refusal_f1=2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        questions=len(pairs),
    )
