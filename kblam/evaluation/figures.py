"""How answers to a quiz are scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from kblam.adapter.sentences import Fact
from kblam.data.quiz import NO_ENTITY, NO_PROPERTY, OPEN, PAIR, SINGLE, Question
from kblam.evaluation.shares import Share
from kblam.evaluation.texts import holds, place, plain, rouge_l, token_f1


@dataclass(frozen=True)
class Outcome:
    """What the model did with one question.

    Args:
        text: what the user gets to read.
        evidence: the triples it rested on, as `Answer.evidence` lists them.
        refused: whether the text is a refusal, for whatever reason.
        known: whether the session decided that the question is known (`Answer.known`); None where nothing decides.
        learned: whether the model refuses when nothing decides for it; None if that was not asked.
        by_layer: for each knowledge layer observed, the triples it looked at most at the end of the prompt.
        cut: whether the evaluation cut the answer where the right one is longer.
    """

    text: str
    evidence: tuple[Fact, ...] = ()
    refused: bool = False
    known: bool | None = None
    learned: bool | None = None
    by_layer: dict[int, tuple[Fact, ...]] = field(default_factory=dict)
    cut: bool = False

    @property
    def best(self) -> Fact | None:
        """The first evidence."""
        return self.evidence[0] if self.evidence else None


@dataclass(frozen=True)
class Refusals:
    """How well refusals tell what can be answered from what cannot.

    Args:
        precision: refusals that were right to refuse.
        recall: unanswerable questions that were refused; recall_entity and recall_property: of those that name an
            unknown entity, and of those that ask a known one for a property it has not.
        f1: harmonic mean of precision and recall; 0 if nothing was refused rightly.
        false: answerable questions that were refused.
    """

    precision: float = math.nan
    recall: float = math.nan
    recall_entity: float = math.nan
    recall_property: float = math.nan
    f1: float = math.nan
    false: float = math.nan


@dataclass(frozen=True)
class Figures:
    """Scores of a quiz, between 0 and 1; NaN where there was nothing to score. A share knows its counts (`Share`).

    Args:
        exact: questions about one or two facts whose whole answer is right, to the letter; exact_single and exact_pair
            of them.
        value: those whose values all stand in the answer verbatim; value_single and value_pair of them.
        pair_right: questions about two facts whose answer has both clauses, name, property and value.
        open_right: questions about a whole entity whose answer says facts of it, in any order, and nothing else.
        open_facts: of the facts of the entities asked about so, those whose value stands in the answer verbatim; its
            interval is over the questions, since the facts of one answer stand or fall together.
        top1: answerable questions whose first evidence is a fact that was asked for.
        top5: those whose facts are all among the first five (of more than five: whose first five are facts
            that were asked for).
        token_f1, rouge_l: overlap with the right sentence, mean over questions about one or two facts.
        refusal_precision, refusal_recall, refusal_f1, false_refusals: see `Refusals`; whatever made it refuse.
        decision: of the session's decision alone, whether a question is known; learned: of what the model says when
            nothing decides for it.
        top1_by_layer, top5_by_layer: at the end of the prompt, where layers were observed.
        questions: how many there were.
        cut: answers that were not let become as long as the right one, and count as wrong; None where none was.
    """

    exact: float = math.nan
    exact_single: float = math.nan
    exact_pair: float = math.nan
    value: float = math.nan
    value_single: float = math.nan
    value_pair: float = math.nan
    pair_right: float = math.nan
    open_right: float = math.nan
    open_facts: float = math.nan
    top1: float = math.nan
    top5: float = math.nan
    token_f1: float = math.nan
    rouge_l: float = math.nan
    refusal_precision: float = math.nan
    refusal_recall: float = math.nan
    refusal_recall_entity: float = math.nan
    refusal_recall_property: float = math.nan
    refusal_f1: float = math.nan
    false_refusals: float = math.nan
    decision: Refusals | None = None
    learned: Refusals | None = None
    top1_by_layer: dict[int, float] = field(default_factory=dict)
    top5_by_layer: dict[int, float] = field(default_factory=dict)
    questions: int = 0
    cut: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Numbers rounded to four places, and under "intervals" each share's [low, high, hits, of]; no NaN."""
        return _record(self)


def score(questions: Sequence[Question], outcomes: Sequence[Outcome]) -> Figures:
    """Compares outcomes with what was asked; `questions` and `outcomes` go together one by one."""
    pairs = list(zip(questions, outcomes, strict=True))
    answerable = [(question, outcome) for question, outcome in pairs if question.facts]

    def share(right: Callable[[Question, Outcome], bool], *kinds: str) -> Share:
        return Share.of_all(right(q, o) for q, o in answerable if not kinds or q.kind in kinds)

    whole = [(question, outcome) for question, outcome in answerable if question.kind == OPEN]
    said = [(outcome.text, question.answer) for question, outcome in answerable if question.kind != OPEN]
    combined = _refusals(pairs, lambda outcome: outcome.refused)
    return Figures(
        exact=share(_exact, SINGLE, PAIR),
        exact_single=share(_exact, SINGLE),
        exact_pair=share(_exact, PAIR),
        value=share(_values, SINGLE, PAIR),
        value_single=share(_values, SINGLE),
        value_pair=share(_values, PAIR),
        pair_right=share(_clauses, PAIR),
        open_right=share(_only_true, OPEN),
        open_facts=Share.pooled([holds(o.text, value) for _, _, value in q.facts] for q, o in whole),
        top1=share(lambda q, o: first_is_asked(q, o.evidence)),
        top5=share(lambda q, o: all_are_among(q, o.evidence)),
        token_f1=_mean(token_f1(text, answer) for text, answer in said),
        rouge_l=_mean(rouge_l(text, answer) for text, answer in said),
        refusal_precision=combined.precision,
        refusal_recall=combined.recall,
        refusal_recall_entity=combined.recall_entity,
        refusal_recall_property=combined.recall_property,
        refusal_f1=combined.f1,
        false_refusals=combined.false,
        decision=_refusals_if_told(pairs, lambda outcome: None if outcome.known is None else not outcome.known),
        learned=_refusals_if_told(pairs, lambda outcome: outcome.learned),
        top1_by_layer=_by_layer(answerable, first_is_asked),
        top5_by_layer=_by_layer(answerable, all_are_among),
        questions=len(pairs),
        cut=sum(outcome.cut for outcome in outcomes) or None,
    )


def first_is_asked(question: Question, evidence: Sequence[Fact]) -> bool:
    """Whether the first evidence is a fact that was asked for."""
    return bool(evidence) and evidence[0] in question.facts


def all_are_among(question: Question, evidence: Sequence[Fact], most: int = 5) -> bool:
    """Whether the first `most` have every fact that was asked for, or as many of them as there is room for."""
    return len(set(evidence[:most]) & set(question.facts)) == min(most, len(set(question.facts)))


def _exact(question: Question, outcome: Outcome) -> bool:
    return plain(outcome.text) == plain(question.answer)


def _only_true(question: Question, outcome: Outcome) -> bool:
    """Whether the text says some of the facts, as one sentence or as one each, and nothing else."""
    text = plain(outcome.text)
    placed = [
        (_place(text, plain(clause)), fact) for clause, fact in zip(question.clauses, question.facts, strict=True)
    ]
    said = [fact for at, fact in sorted(placed) if at >= 0]
    together, apart = question.said(said) if said else "", " ".join(question.said([fact]) for fact in said)
    return bool(said) and text in (plain(together), plain(apart))


def _values(question: Question, outcome: Outcome) -> bool:
    return all(holds(outcome.text, value) for _, _, value in question.facts)


def _clauses(question: Question, outcome: Outcome) -> bool:
    return all(_place(plain(outcome.text), plain(clause)) >= 0 for clause in question.clauses)


def _place(text: str, clause: str) -> int:
    """Where a clause stands in a text, with "The" in either case; -1 if nowhere."""
    found = [place(text, clause), place(text, "the " + clause[4:]) if clause.startswith("The ") else -1]
    return min((at for at in found if at >= 0), default=-1)


def _refusals(pairs: Sequence[tuple[Question, Outcome]], refused: Callable[[Outcome], bool | None]) -> Refusals:
    said = [question for question, outcome in pairs if refused(outcome)]

    def recall(*kinds: str) -> Share:
        return Share.of_all(
            bool(refused(outcome)) for q, outcome in pairs if not q.facts and (not kinds or q.kind in kinds)
        )

    rightly, everything = Share.of_all(not question.facts for question in said), recall()
    missed = everything.of - everything.hits
    counted = 2 * rightly.hits + (rightly.of - rightly.hits) + missed
    return Refusals(
        precision=rightly,
        recall=everything,
        recall_entity=recall(NO_ENTITY),
        recall_property=recall(NO_PROPERTY),
        f1=2 * rightly.hits / counted if counted else math.nan,
        false=Share.of_all(bool(refused(outcome)) for question, outcome in pairs if question.facts),
    )


def _refusals_if_told(
    pairs: Sequence[tuple[Question, Outcome]], refused: Callable[[Outcome], bool | None]
) -> Refusals | None:
    if any(refused(outcome) is None for _, outcome in pairs):
        return None
    return _refusals(pairs, refused)


def _by_layer(
    answerable: Sequence[tuple[Question, Outcome]], right: Callable[[Question, Sequence[Fact]], bool]
) -> dict[int, float]:
    layers = sorted({layer for _, outcome in answerable for layer in outcome.by_layer})
    seen = [(question, outcome.by_layer) for question, outcome in answerable if outcome.by_layer]
    return {n: Share.of_all(right(question, found.get(n, ())) for question, found in seen) for n in layers}


def _mean(values: Iterable[float]) -> float:
    every = list(values)
    return sum(every) / len(every) if every else math.nan


def _record(figures: Any) -> dict[str, Any]:
    record: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for name in (each.name for each in fields(figures)):
        value = getattr(figures, name)
        if isinstance(value, Refusals):
            record[name] = _record(value)
        elif isinstance(value, dict):
            if value:
                record[name] = {str(key): round(float(number), 4) for key, number in value.items()}
        elif value is not None and not math.isnan(value):
            record[name] = round(float(value), 4) if isinstance(value, float) else value
        for key, share in value.items() if isinstance(value, dict) else [(None, value)]:
            if isinstance(share, Share) and share.of:
                ends = [round(end, 4) for end in share.interval]
                intervals[name if key is None else f"{name}.{key}"] = [*ends, share.hits, share.of]
    if intervals:
        record["intervals"] = intervals
    return record
