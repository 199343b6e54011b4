"""What is decided from what a question and its parts found, and where sessions keep to it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from kblam import KnowledgeBase, Session, Triple
from kblam.adapter.confidence import Confidence
from kblam.adapter.sentences import Sentence
from kblam.errors import GenerationError, GenerationFailedError
from kblam.generation import Pointer
from kblam.generation.clauses import Split
from kblam.generation.decision import AskedSplit, Decision, Rules, Unknown, decide
from kblam.generation.evidence import Found
from kblam.generation.plan import plan
from kblam.generation.wording import Wordings
from kblam.models.copies import resident_for
from tests.generation.asking import FACTS, Asked, attached, byte_bpe
from tests.generation.test_pointer import CURRENCY, EURO
from tests.generation.test_unknown import EURO_BUDGET, REFUSAL, STONE

FRANCE, BUDGET, FOUNDER, PROCTER, _ = (Found(place, fact, 0.9) for place, fact in enumerate(FACTS))
QUESTION = "What is the currency of France and the budget of Project Nightjar?"
PARTS = ("What is the currency of France?", "What is the budget of Project Nightjar?")


def rules(unknown: Unknown | None = "refuse", known_above: float | None = 0.5) -> Rules:
    _, attachment = attached(byte_bpe())
    return Rules(attachment.config, known_above, unknown)


def weak(found: Found, mass: float = 0.2) -> Found:
    return Found(found.place, found.triple, mass)


def cut(*found: tuple[Found, ...], explicit: bool = True, at: tuple[int, int] = (30, 35)) -> list[AskedSplit]:
    return [AskedSplit(Split(PARTS, (at,), explicit), found)]


def said(decision: Decision) -> str | None:
    return None if decision.sentence is None else decision.sentence.text


def test_the_split_with_the_highest_smallest_mass_wins() -> None:
    better = cut((FRANCE,), (BUDGET,))
    worse = cut((weak(FRANCE, 0.6),), (FOUNDER,))
    for cuts in (better + worse, worse + better):
        assert said(decide(rules(), QUESTION, [FRANCE], cuts)) == EURO_BUDGET


def test_the_split_that_says_more_of_the_question_wins() -> None:
    """Two facts about one entity may be surer, and leave the other entity out."""
    right = cut((replace(FRANCE, confidence=0.6),), (replace(BUDGET, confidence=0.6),))
    narrow = cut((replace(BUDGET, confidence=0.9),), (replace(FOUNDER, confidence=0.9),))
    for cuts in (right + narrow, narrow + right):
        assert said(decide(rules(), QUESTION, [FRANCE], cuts)) == EURO_BUDGET


def test_a_split_by_names_guesses_at_no_whole_entity_and_asks_for_one_property() -> None:
    everything = replace(BUDGET, asks_everything=True)
    assert said(decide(rules(), QUESTION, [FRANCE], cut((FRANCE,), (everything,), explicit=False))) == EURO
    assert said(decide(rules(), QUESTION, [FRANCE], cut((FRANCE,), (everything,)))) == EURO_BUDGET
    shared = [AskedSplit(Split(PARTS, ((30, 35),), False, one_property=True), ((FRANCE,), (BUDGET,)))]
    assert said(decide(rules(), QUESTION, [FRANCE], shared)) == EURO
    shared = [AskedSplit(Split(PARTS, ((30, 35),), False, one_property=True), ((FRANCE,), (PERU,)))]
    assert said(decide(rules(), QUESTION, [FRANCE], shared)) == EURO_SOL


def test_between_splits_that_say_as_much_the_surer_one_wins_whatever_its_mass() -> None:
    sure = cut((replace(FRANCE, mass=0.3, confidence=0.9),), (replace(BUDGET, mass=0.3, confidence=0.9),))
    other = Found(7, replace(FACTS[0], value="Franc"), 0.9, 0.6)
    heavy = cut((other,), (replace(BUDGET, confidence=0.6),))
    for cuts in (sure + heavy, heavy + sure):
        assert said(decide(rules(), QUESTION, [FRANCE], cuts)) == EURO_BUDGET


def test_where_nobody_judged_the_mass_says_which_split_is_surer() -> None:
    other = Found(7, replace(FACTS[0], value="Franc"), 0.7)
    heavy, light = cut((FRANCE,), (BUDGET,)), cut((other,), (weak(BUDGET, 0.6),))
    for cuts in (heavy + light, light + heavy):
        assert said(decide(rules(), QUESTION, [FRANCE], cuts)) == EURO_BUDGET


@pytest.mark.parametrize(
    "cuts",
    [cut((FRANCE,), (FRANCE,)), cut((weak(FRANCE),), (weak(BUDGET),)), cut((), ()), cut((FRANCE,), (), explicit=False)],
    ids=["the same triple twice", "both weak", "nothing found", "a part of a name"],
)
def test_a_split_that_does_not_count_leaves_one_question(cuts: list[AskedSplit]) -> None:
    assert said(decide(rules(), QUESTION, [FRANCE], cuts)) == EURO
    assert said(decide(rules(), QUESTION, [weak(FRANCE)], cuts)) == REFUSAL


PERU = Found(9, Triple("Peru", "currency", "Sol"), 0.9)
LIST = "What is the currency of France, Zork and Peru?"
OF_LIST = Split(
    tuple(f"What is the currency of {name}?" for name in ("France", "Zork", "Peru")), ((30, 32), (36, 41)), True
)
EURO_SOL = f"{EURO[:-1]} and the currency of Peru is Sol."


def test_of_a_list_the_known_items_are_said_and_that_one_is_not() -> None:
    """A cut that leaves the unknown one out does not count, whoever proposed it."""
    asked_list = AskedSplit(OF_LIST, ((FRANCE,), (), (PERU,)))
    of_names = AskedSplit(Split(PARTS, ((30, 37),), False, one_property=True), ((FRANCE,), (PERU,)))
    for cuts in ([asked_list, of_names], [of_names, asked_list]):
        assert said(decide(rules(), LIST, [FRANCE], cuts)) == f"{EURO_SOL} {REFUSAL}"
    assert said(decide(rules(), LIST, [FRANCE], [of_names])) == EURO_SOL
    # Where the list itself tells nothing, two of its items are better than one.
    nothing = AskedSplit(OF_LIST, ((), (), ()))
    assert said(decide(rules(), LIST, [FRANCE], [nothing, of_names])) == EURO_SOL


def test_a_list_says_its_property_once_in_whatever_words() -> None:
    question = "Who pays in France, Zork and Peru?"
    parts = tuple(f"Who pays in {name}?" for name in ("France", "Zork", "Peru"))
    cuts = [AskedSplit(Split(parts, ((18, 20), (24, 29)), True), ((FRANCE,), (), (PERU,)))]
    assert said(decide(rules(), question, [FRANCE], cuts)) == f"{EURO_SOL} {REFUSAL}"
    cuts = [AskedSplit(Split(parts[:2], ((18, 20),), True), ((FRANCE,), ()))]
    assert said(decide(rules(), question, [FRANCE], cuts)) == EURO


def test_a_comma_in_a_name_is_none_between_items() -> None:
    question = "What is the currency of Lima, Peru and France?"
    lima = replace(PERU, triple=replace(PERU.triple, name="Lima, Peru"))
    in_three = AskedSplit(
        Split(
            tuple(f"What is the currency of {name}?" for name in ("Lima", "Peru", "France")), ((28, 30), (34, 39)), True
        ),
        ((), (), (FRANCE,)),
    )
    in_two = AskedSplit(Split(PARTS, ((34, 39),), False), ((lima,), (FRANCE,)))
    expected = "The currency of Lima, Peru is Sol and the currency of France is Euro."
    assert said(decide(rules(), question, [FRANCE], [in_three, in_two])) == expected


def test_a_property_inside_a_longer_one_is_not_said() -> None:
    question = "What is the country of origin of Aa and Bb?"
    fact = Found(20, Triple("Aa", "country of origin", "Peru"), 0.9)
    right, wrong = (
        Found(place, Triple("Bb", prop, value), mass)
        for place, prop, value, mass in [(21, "country of origin", "Chile", 0.6), (22, "country", "Japan", 0.9)]
    )
    for cuts in (cut((fact,), (wrong,)) + cut((fact,), (right,)), cut((fact,), (right,)) + cut((fact,), (wrong,))):
        text = said(decide(rules(), question, [fact], cuts))
        assert text == "The country of origin of Aa is Peru and the country of origin of Bb is Chile."


@pytest.mark.parametrize("said_so", ["date of birth", "dateOfBirth"])
def test_columns_in_camel_case_are_one_property_and_are_said(said_so: str) -> None:
    """What a question says counts for its columns too, and two spellings are one property."""
    question = f"What is the {said_so} of Ann Lee and the job title of Bo Ek?"
    birth, title, other = (
        Found(place, Triple(name, prop, prop[::-1]), 0.9, confidence=sure)
        for place, (name, prop, sure) in enumerate(
            [("Ann Lee", "dateOfBirth", 0.6), ("Bo Ek", "jobTitle", 0.6), ("Bo Ek", "dateOfBirth", 0.9)]
        )
    )
    at = question.index(" and "), question.index(" and ") + 5
    right, wrong = cut((birth,), (title,), at=at), cut((birth,), (other,), at=at)
    for cuts in (right + wrong, wrong + right):
        text = said(decide(rules(), question, [birth], cuts))
        assert text == "The dateOfBirth of Ann Lee is htriBfOetad and the jobTitle of Bo Ek is eltiTboj."
    spelled = Found(3, Triple("Bo Ek", "date of birth", "3 May"), 0.9, confidence=0.9)
    shared = [AskedSplit(Split(PARTS, (at,), False, one_property=True), ((birth,), (spelled,)))]
    text = said(decide(rules(), question, [birth], shared))
    assert text == "The dateOfBirth of Ann Lee is htriBfOetad and the date of birth of Bo Ek is 3 May."


def test_the_name_of_one_part_with_the_property_of_another_is_no_answer() -> None:
    """The whole question is likeliest about the currency of Project Nightjar, which nobody asked for."""
    mixed = Found(30, Triple("Project Nightjar", "currency", "Dollar"), 0.9)
    assert (
        said(decide(rules(), QUESTION, [mixed], cut((), (BUDGET,))))
        == f"The budget of Project Nightjar is 4,711,000 crowns. {REFUSAL}"
    )
    other = Found(31, Triple("Project Nightjar", "motto", "Fly"), 0.9)
    assert said(decide(rules(), QUESTION, [other], cut((), (BUDGET,)))) == "The motto of Project Nightjar is Fly."


def test_a_name_is_not_cut() -> None:
    question = "What is the CEO of Procter and Gamble?"
    cuts = cut((FRANCE,), (BUDGET,), at=(26, 31))
    assert question[26:31] == " and "
    assert said(decide(rules(), question, [PROCTER], cuts)) == "The CEO of Procter and Gamble is Ann Lee."


def test_a_name_is_not_cut_whatever_its_letters() -> None:
    """In lower case a sharp s is two letters, and the places after it are others."""
    street = Found(9, Triple("Groß and Klein", "CEO", "Ann Lee"), 0.9)
    question = "Großer Gott, who is the CEO of GROSS and Klein?"
    at = question.index(" and ")
    cuts = cut((FRANCE,), (BUDGET,), at=(at, at + 5))
    assert said(decide(rules(), question, [street], cuts)) == "The CEO of Groß and Klein is Ann Lee."


def test_names_with_letters_of_one_case_count_as_said() -> None:
    street, square = (
        Found(at, Triple(name, "length", "9"), 0.6) for at, name in ((8, "Hauptstraße"), (9, "Großmarkt"))
    )
    question = "What is the length of Hauptstraße, that of Großmarkt, and the currency of France?"
    right, other = cut((street,), (square,), at=(33, 34)), cut((FRANCE,), (BUDGET,), at=(33, 34))
    for cuts in (right + other, other + right):
        assert "Hauptstraße" in (said(decide(rules(), question, [FRANCE], cuts)) or "")


def test_a_known_part_is_said_only_if_it_is_what_was_asked() -> None:
    half = f"{EURO} {REFUSAL}"
    assert said(decide(rules(), QUESTION, [weak(FRANCE)], cut((FRANCE,), (weak(BUDGET),)))) == half
    assert said(decide(rules(), QUESTION, [FRANCE], cut((FRANCE,), (weak(BUDGET),)))) == half
    # The part about the budget found the founder: that is not what was asked.
    assert said(decide(rules(), QUESTION, [], cut((weak(FRANCE),), (FOUNDER,)))) == REFUSAL
    # The whole question found something else.
    assert said(decide(rules(), QUESTION, [PROCTER], cut((FRANCE,), ()))) == "The CEO of Procter and Gamble is Ann Lee."
    assert said(decide(rules(None), QUESTION, [weak(FRANCE)], cut((FRANCE,), ()))) == EURO


@pytest.mark.parametrize(
    ("question", "is_whole"),
    [
        ("Tell me about Project Nightjar.", True),
        ("hello, what is Project Nightjar?", True),
        ("What do you know about project nightjar? Thanks!", True),
        ("What is the color of Project Nightjar?", False),
        ("Tell me about Project Sunrise.", False),
        ("How about Project Nightjar?", True),
        ("How else can you say Project Nightjar?", False),
        ("how do you say project nightjar", False),
        (None, False),
    ],
)
def test_only_a_question_about_the_whole_entity_gets_its_triples(question: str | None, is_whole: bool) -> None:
    """A missing property spreads attention over the entity's other triples; they do not answer it."""
    decision = decide(rules(), question, [weak(BUDGET, 0.4), weak(FOUNDER, 0.3)])
    assert (said(decision) != REFUSAL) is is_whole
    if is_whole:
        assert decision.mass == pytest.approx(0.7)
        assert [fact.triple for fact in decision.facts] == [FACTS[1], FACTS[2]]


def test_what_is_unknown() -> None:
    found: list[Any] = [weak(FRANCE)]
    assert decide(rules("base"), STONE, found).is_base
    left = decide(rules(None), STONE, found)
    assert (said(left), left.is_known, left.mass, left.is_forced) == (EURO, False, 0.2, False)
    assert decide(rules(None, None), STONE, []) == Decision(0.0)
    assert decide(rules("refuse"), STONE, []).is_forced


def test_an_empty_knowledge_base_knows_nothing(asked: Asked) -> None:
    with KnowledgeBase.create(None, asked.encoder) as empty:
        for unknown, text in (("refuse", REFUSAL), ("base", None), (None, None)):
            answer = Session(asked.model, empty, tokenizer=asked.tokenizer, unknown=unknown).ask(
                STONE, max_new_tokens=20
            )
            assert answer.from_base is (unknown == "base")
            assert text is None or answer.text == text


def test_a_changed_value_is_what_is_copied(asked: Asked) -> None:
    session = asked.session()
    assert session.ask(CURRENCY, max_new_tokens=60).text == EURO
    asked.kb.add(Triple("France", "currency", "Franc"))
    assert session.ask(CURRENCY, max_new_tokens=60).text == "The currency of France is Franc."


def test_confidence_decides_where_there_is_one_and_mass_where_not() -> None:
    asked = rules()
    assert asked.is_known([replace(FRANCE, mass=0.1, confidence=0.6)])
    assert not asked.is_known([replace(FRANCE, mass=0.9, confidence=0.4)])
    assert asked.is_known([replace(FRANCE, mass=0.6)])
    assert not asked.is_known([replace(FRANCE, mass=0.4)])
    assert not asked.is_known([])
    assert not rules(None, None).is_known([FRANCE])


def test_a_decision_is_as_sure_as_the_least_sure_of_its_facts() -> None:
    sure, unsure = replace(FRANCE, confidence=0.9), replace(BUDGET, confidence=0.6)
    assert decide(rules(), CURRENCY, [sure, BUDGET]).confidence == 0.9
    assert decide(rules(), QUESTION, [sure], cut((sure,), (unsure,))).confidence == 0.6
    assert decide(rules("refuse"), STONE, [replace(FRANCE, confidence=0.1)]).confidence == 0.1
    assert decide(rules("base"), STONE, [replace(FRANCE, confidence=0.1)]).confidence == 0.1
    assert decide(rules(), CURRENCY, [FRANCE]).confidence is None
    assert decide(rules(), STONE, []).confidence is None


def test_everything_is_told_where_the_share_says_so() -> None:
    """ "Give me the rundown on A" has words of its own, and asks for no property."""
    weak_one = replace(weak(BUDGET, 0.4), confidence=0.1)
    question = "Give me the rundown on Project Nightjar."
    assert said(decide(rules(), question, [weak_one, weak(FOUNDER, 0.3)])) == REFUSAL
    about = replace(weak_one, asks_everything=True)
    told = decide(rules(), question, [about, weak(FOUNDER, 0.3)])
    assert [fact.triple for fact in told.facts] == [FACTS[1], FACTS[2]]
    assert told.confidence is None
    weights = Confidence(mass=1, name=2, property=1, other=-1, share=1, bias=-2)
    weighed = replace(rules(), config=replace(rules().config, confidence=weights))
    assert decide(weighed, question, [about, weak(FOUNDER, 0.3)]).confidence == weighed.entity_confidence(0.7)
    assert decide(weighed, question, [about]).confidence == weighed.entity_confidence(0.4)
    assert said(decide(rules(), "Give me the rundown on it.", [about, weak(FOUNDER, 0.3)])) == REFUSAL


def test_the_entity_is_the_one_that_the_question_names() -> None:
    """Whatever else has more of the attention; of a name inside a longer one the longer one."""
    inside = Found(9, Triple("Nightjar", "color", "blue"), 0.2)
    found = [FRANCE, inside, weak(BUDGET, 0.3), weak(FOUNDER, 0.4)]
    told = decide(rules(), "Tell me about Project Nightjar.", [replace(one, confidence=0.01) for one in found])
    assert [fact.triple for fact in told.facts] == [FOUNDER.triple, BUDGET.triple]
    told = decide(rules(), "Tell me about Nightjar.", [replace(one, mass=0.9, confidence=0.01) for one in found])
    assert [fact.triple.name for fact in told.facts] == ["Nightjar"]


def test_an_entity_whose_name_is_said_and_not_meant_is_not_told() -> None:
    """ "Do you mind?" asks for nothing of "mind"; of names that are said the one that is meant is told."""
    mind = Found(9, Triple("mind", "place", "the head"), 0.9, 0.01)
    assert said(decide(rules(), "Do you mind?", [mind])) == "The place of mind is the head."
    assert said(decide(rules(), "Do you mind?", [replace(mind, is_named=False)])) == REFUSAL
    short, long = (
        Found(at, Triple(name, "place", "Japan"), 0.9, 0.01) for at, name in enumerate(["東京", "東京タワー"])
    )
    found = [replace(short, is_named=False, asks_everything=True), replace(long, is_named=True, asks_everything=True)]
    told = decide(rules(), "東京タワーについて教えて", found)
    assert [fact.triple.name for fact in told.facts] == ["東京タワー"]


def test_of_cuts_none_says_more_for_a_property_inside_a_name() -> None:
    question = "Who is the founder of Height Tower and Bo Lane?"
    founder = Found(0, Triple("Height Tower", "founder", "Ann"), 0.9, 0.9)
    height = Found(1, Triple("Height Tower", "height", "30 m"), 0.9, 0.6)
    other = Found(2, Triple("Bo Lane", "founder", "Bo"), 0.9, 0.9)
    right, wrong = cut((founder,), (other,)), cut((height,), (other,))
    for cuts in (right + wrong, wrong + right):
        assert [one.triple.value for one in decide(rules(), question, [founder], cuts).facts] == ["Ann", "Bo"]


def test_an_entity_that_is_named_is_known_by_the_weights() -> None:
    weights = Confidence(mass=1, name=2, property=1, other=-1, share=1, bias=-2)
    weighed = replace(rules(), config=replace(rules().config, confidence=weights))
    assert weighed.knows_entity(0.4)  # log odds of -.41 and 1
    assert not rules().knows_entity(0.4)
    assert not weighed.knows_entity(0.2)  # -1.39 and 1


def test_beams_of_the_model_s_own_config_are_not_taken(asked: Asked) -> None:
    """Rows of beams are no rows of questions: the wrong question would be refused, and another's fact be evidence."""
    questions = [CURRENCY, STONE, "What is the founder of Project Nightjar?"]
    for unknown in ("refuse", "base"):
        session = asked.session(unknown=unknown)
        alone = session.ask_many(questions, max_new_tokens=60)
        asked.model.generation_config.num_beams = 3
        beside = session.ask_many(questions, max_new_tokens=60)
        asked.model.generation_config.num_beams = 1
        assert [(a.text, a.known, a.from_base) for a in beside] == [(a.text, a.known, a.from_base) for a in alone]


def test_a_refusal_that_cannot_be_said_is_no_silence(asked: Asked) -> None:
    adapter, cannot = asked.attachment.adapter, Wordings(asked.tokenizer)
    cannot._control = re.compile("(?=(n))")  # a control token of one character
    with pytest.raises(GenerationFailedError, match="cannot write 'in' without a control token"):
        plan(Decision(0.0, sentence=Sentence("in"), is_forced=True), [5], cannot, 1)
    adapter.config = replace(adapter.config, refusal=" ")
    with pytest.raises(GenerationError, match="the adapter's refusal is empty"):
        asked.session(unknown="refuse")


def test_a_refusal_of_another_tokenizer_is_told(asked: Asked) -> None:
    """Also where there is no fact to copy, whose tokens would have told."""
    pointer = Pointer(asked.attachment, resident_for(asked.attachment, asked.kb), asked.tokenizer)
    pointer.recorder.masses.append(torch.zeros(1, 0))
    pointer.recorder.places.append(torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(GenerationFailedError, match="it is another model's tokenizer"):
        pointer(torch.tensor([[5]]), torch.zeros(1, 12))


def test_all_parts_of_a_question_are_one_prefill(asked: Asked) -> None:
    shapes: list[tuple[int, ...]] = []

    def seen(_: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        if kwargs["input_ids"].shape[1] > 1:
            shapes.append(tuple(kwargs["input_ids"].shape))

    hook = asked.model.model.register_forward_pre_hook(seen, with_kwargs=True)
    asked.session().ask("What is the currency of France and the budget of Project Nightjar?", max_new_tokens=4)
    hook.remove()
    assert len(shapes) == 2, "the parts, then the question"


def test_a_session_that_changes_its_mind_answers_by_one_of_them(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may set `unknown` while a question is being answered."""
    session = asked.session(unknown="refuse")
    encode = session.question_vectors

    def changing(questions: Any) -> torch.Tensor:
        session.unknown = "base"
        return encode(questions)

    monkeypatch.setattr(session, "question_vectors", changing)
    assert session.ask(STONE, max_new_tokens=60).text == REFUSAL
