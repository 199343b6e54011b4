"""Which rows an evaluation has, which of them is drawn, and which baselines they are compared with."""

from __future__ import annotations

from kblam.evaluation.estimate import SLOWER_WITH_PROMPT, Pace, estimate
from kblam.evaluation.material import standard_material
from kblam.evaluation.plan import Plan, Row, drawn_row, irrelevant_row, rows_of

MATERIAL = standard_material("The {property} of {name} is {value}.")


def rows(plan: Plan) -> list[Row]:
    return rows_of(plan, MATERIAL)


def test_the_row_that_is_drawn_has_a_useful_size() -> None:
    every = rows(Plan(sizes=(100, 2000, 10_000), unseen=True))
    assert (drawn := drawn_row(every)) is not None
    assert drawn.place == ("sizes", "2000")
    assert (largest := drawn_row(rows(Plan(sizes=(100, 200))))) is not None
    assert largest.place == ("sizes", "200")
    assert drawn_row([]) is None


def test_general_questions_get_the_largest_base_of_the_world() -> None:
    every = rows(Plan(sizes=(100, 10_000), unseen=True, real=("elements",)))
    assert (row := irrelevant_row(every)) is not None
    assert row.place == ("sizes", "10000")
    own = tuple((f"N{n}", "p", "v") for n in range(20_000))
    assert (row := irrelevant_row(rows(Plan(sizes=(100,), own=own)))) is not None
    assert row.place == ("sizes", "100")


def test_baselines_are_asked_about_the_rows_that_the_plan_names() -> None:
    plan = Plan(sizes=(100, 1000, 10_000), unseen=True, baselines=("rag",), compared=("100", "10000"))
    assert [plan.baselines_of(row) for row in rows(plan)] == [("rag",), (), ("rag",), ()]
    plan = Plan(sizes=(100,), unseen=True, baselines=("rag",))
    assert [plan.baselines_of(row) for row in rows(plan)] == [("rag",), ("rag",)]


def test_the_estimate_counts_a_baseline_s_questions_over_all_bases_of_a_row() -> None:
    """1,000 questions about 100 triples are of twenty bases, with fifty each."""
    took = []
    for asked in (50, 200):
        plan = Plan(sizes=(100,), questions=1000, baselines=("zero-shot",), baseline_questions=asked)
        took.append(estimate(plan, rows(plan), 0, Pace(question=1.0, text=0.0))["100 triples, zero-shot"])
    assert took[1] - took[0] == 150 * SLOWER_WITH_PROMPT["zero-shot"]


def test_the_row_of_ones_own_base_says_that_an_adapter_may_have_learned_from_it() -> None:
    own = tuple((f"N{n}", "p", "v") for n in range(20))
    row, *others = rows(Plan(own=own, real=("elements",)))
    assert row.place == ("kb",)
    assert "trained or calibrated on this base" in row.note
    assert "phrasings of training" in row.note
    assert [other.note for other in others] == [""]


def test_the_estimate_counts_encoding_only_where_texts_are_encoded() -> None:
    own = tuple((f"N{n}", "p", "v") for n in range(1000))
    plan = Plan(sizes=(1000,), own=own)
    slow, quick = (estimate(plan, rows(plan), 0, Pace(question=0.1, text=text)) for text in (1.0, 0.0))
    assert {title: slow[title] - quick[title] for title in slow} == {"1,000 triples": 2000, "your triples": 0}
