"""A judge reads the signs of each triple that may answer, once for each property of a knowledge base."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kblam.adapter.confidence import Signs
from kblam.adapter.property_head import PropertyHead
from kblam.knowledge.mention import words
from kblam.models import shares
from kblam.models.judging import Judge, judge_of
from tests.fakes import HashingEncoder
from tests.models.judges import WEIGHTS, Counting, adapter, against, base, judged, shares_of, vectors


def test_the_signs_of_a_question() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    price = judged("What is the price of Anvil 3?", ("Anvil 3", "price", 0.25))
    (named,), (heavy, light), (far,) = judge.signs(
        [
            price,
            judged("What is the weight of anvil 3?", ("Anvil 3", "price", 0.5), ("Anvil 3", "weight", 0.125)),
            judged("What is the price of Hammer 5?", ("Anvil 3", "price", 0.75)),
        ],
    )
    keys = vectors(encoder, ["the everything of it", "the price of it", "the weight of it"])
    asked = vectors(encoder, ["What is the price of it?", "What is the weight of it?"])
    shares = shares_of(asking, asked, keys, {(0, 1): 1, (1, 2): 1})
    best = (shares == shares.amax(-1, keepdim=True)).tolist()
    (everything, price_share, weight_share), (about, *both) = shares.exp().tolist()
    assert named == Signs(
        0.25, 1, 1, 0, pytest.approx(against(price_share, [weight_share], [everything])), best[0][1]
    ), "it has no weight"
    assert heavy == Signs(0.5, 1, 0, 1, pytest.approx(against(both[0], [], [about])), best[1][1]), "it has one"
    assert light == Signs(0.125, 1, 1, 0, pytest.approx(against(both[1], [], [about])), best[1][2])
    assert far == Signs(0.75, 0, 1, 0, 0, 0)
    (verdict,) = judge.verdicts([price])
    # Two batches of vectors differ in their last bits.
    assert verdict == ((pytest.approx(WEIGHTS.of(named), abs=1e-6),), (bool(shares[0, 0].exp() >= 0.5),), (True,))


def test_a_name_inside_a_longer_one_is_not_said() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"])
    short, long = ("Path Traversal", "price", 0.5), ("Relative Path Traversal", "price", 0.1)
    (inside, meant), (alone,) = judge.signs(
        [
            judged("What is the price of Relative Path Traversal?", short, long),
            judged("What is the price of Path Traversal?", short),
        ],
    )
    assert (inside.name, meant.name, alone.name) == (0, 1, 1)


def test_a_name_inside_a_longer_one_that_attention_did_not_find() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    names = ["Path Traversal", "Relative Path Traversal"]
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], names)
    short = ("Path Traversal", "price", 0.5)
    asked = ["the price of relative path traversal", "the price of path traversal", "of Path Traversal, relative"]
    assert [one.name for (one,) in judge.signs([judged(text, short) for text in asked])] == [0, 1, 1]
    both = "the price of Path Traversal and of Relative Path Traversal"
    assert judge.signs([judged(both, short)])[0][0].name == 1
    assert judge.says_a_name("RELATIVE PATH TRAVERSAL?")
    assert not judge.says_a_name("the path of a traversal")


def test_a_name_is_not_said_where_the_question_goes_on_as_its_family_does() -> None:
    encoder, asking = HashingEncoder(16), adapter(background=("capacity",))
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], ["Acme", "Acme Motors"])
    acme = ("Acme", "price", 0.5)
    asked = ["What is the price of Acme Foods?", "What is the Acme Price?", "What is the Acme Capacity?", "Acme price"]
    assert [one.name for (one,) in judge.signs([judged(text, acme) for text in asked])] == [0, 1, 1, 1]


def test_a_name_that_a_question_says_without_meaning_it_is_not_said() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], ["mind", "one", "Anvil"])
    found = [(name, "price", 0.5) for name in ("mind", "one", "Anvil")]
    asked = [
        "Would you mind telling me the price of Anvil, one value?",
        "Never mind the anvil",
        "the price of one mind",
    ]
    said = judge.signs([judged(text, *found) for text in asked])
    assert [[one.name for one in signs] for signs in said] == [[0, 0, 1], [0, 0, 1], [1, 0, 0]]


def test_of_names_of_the_same_words_the_one_said_to_the_letter_is_meant() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["designer"], ["C", "C++", "C#"])
    found = [(name, "designer", 0.2) for name in ("C", "C++", "C#")]
    said = judge.signs([judged(f"Who is the designer of {name}?", *found) for name in ("C", "C++", "c#", "C-")])
    assert [[one.name for one in signs] for signs in said] == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


def test_a_property_that_is_said_word_for_word_has_a_larger_share() -> None:
    """The longest that stands there, by its words; one beyond those compared, for its own question, too."""
    encoder, asking = HashingEncoder(16), adapter(background=("color",))
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["number", "phone number", "price"])
    names = ["everything", "color", "number", "phone number", "price", "taste"]
    keys = vectors(encoder, [f"the {p} of it" for p in names])
    for text, said in (
        ("the phone number of it", {(0, 3): 2}),
        ("the number and the price of it", {(0, 2): 1, (0, 4): 1}),
        ("the color of it", {(0, 1): 1}),
        ("the taste of it", {(0, 5): 1}),
        ("how about it", {}),
    ):
        found = [("Anvil 3", prop, 0.2) for prop in names[2:]]
        (signs,) = judge.signs([judged(text.replace(" it", " Anvil 3"), *found)])
        everything, color, *own = shares_of(asking, vectors(encoder, [text]), keys, said)[0].exp().tolist()
        wanted = [against(share, of_none=[everything, color]) for share in own]
        assert [one.share for one in signs] == pytest.approx(wanted, abs=1e-5), text


def test_who_says_a_property_does_not_ask_for_everything() -> None:
    """A question for the "further explanation" sounds like one for all there is: it was answered by the description."""
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["description", "further explanation"])
    keys = vectors(encoder, [f"the {p} of it" for p in ("everything", "description", "further explanation")])
    for text, said, adds in (
        ("the further explanation of it", {(0, 2): 2}, False),
        ("everything about it", {(0, 0): 1}, True),
    ):
        ((signs,),) = judge.signs([judged(text.replace("it", "Anvil 3"), ("Anvil 3", "description", 0.2))])
        everything, described, other = shares_of(asking, vectors(encoder, [text]), keys, said)[0].exp().tolist()
        assert signs.share == pytest.approx(against(described + everything * adds, [other], [everything]))


def test_the_candidates_of_a_question_share_what_is_sure() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    case = judged("the price of Anvil 3", ("Hammer 5", "price", 0.5), ("Anvil 3", "price", 0.4), ("Anvil 3", "x", 0.1))
    (signs,), (verdict,) = judge.signs([case]), judge.verdicts([case])
    assert verdict.confidences == tuple(WEIGHTS.among(signs))
    assert max(verdict.confidences) == verdict.confidences[1]


def test_a_question_s_signs_do_not_depend_on_what_is_asked_beside_it() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    asked = [judged(f"What is the price of Anvil {n}?", (f"Anvil {n}", "price", 0.25)) for n in range(5)]
    alone = [judge.verdicts([one])[0].confidences for one in asked]
    assert [one.confidences for one in judge.verdicts(asked)] == [pytest.approx(one) for one in alone]
    assert judge.signs([]) == []


def test_without_weights_there_is_no_judge_and_nothing_is_encoded() -> None:
    encoder = Counting()
    with base(encoder, "price", "weight") as kb:
        encoder.seen.clear()
        assert judge_of(adapter(confidence=None), kb) is None
        assert encoder.seen == []


def test_without_a_property_head_properties_are_not_compared() -> None:
    encoder = Counting()
    with base(encoder, "price", "weight") as kb:
        encoder.seen.clear()
        asking = adapter(property_width=0)
        judge = judge_of(asking, kb)
        assert judge is not None
        ((signs,),) = judge.signs([judged("the weight of Anvil 0?", ("Anvil 0", "price", 0.3))])
        assert signs == Signs(0.3, 1, 0, 1, 0)
        assert encoder.seen == []


def test_a_property_beyond_those_compared_takes_part_for_its_own_question() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    rare, usual = (judged(f"the {p} of Anvil 3", ("Anvil 3", p, 0.2)) for p in ("taste", "price"))
    (alone,), beside = judge.signs([usual])[0], [signs for (signs,) in judge.signs([rare, usual])]
    assert beside[1].share == pytest.approx(alone.share)
    assert beside[0].share == pytest.approx(judge.signs([rare])[0][0].share, rel=1e-5)
    asked = vectors(encoder, ["the taste of it"])
    keys = vectors(encoder, [f"the {p} of it" for p in ("everything", "price", "weight", "taste")])
    everything, price, weight, taste = shares_of(asking, asked, keys, {(0, 3): 1})[0].exp().tolist()
    assert beside[0].share == pytest.approx(against(taste, [price, weight], [everything]), rel=1e-5)


def test_the_background_counts_where_the_base_has_nothing_like_it() -> None:
    encoder = HashingEncoder(16)
    asking = adapter(background=("phone number", "price", "list price", "color"))
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
    columns = ["everything", "phone number", "price", "color", "weight"]  # "list price" is the base's price
    keys = vectors(encoder, [f"the {p} of it" for p in columns])
    ((signs,),) = judge.signs([judged("the phone number of Anvil 3", ("Anvil 3", "weight", 0.2))])
    shares = shares_of(asking, vectors(encoder, ["the phone number of it"]), keys, {(0, 1): 2})
    everything, number, price, color, weight = shares[0].exp().tolist()
    assert signs.share == pytest.approx(against(weight, [price], [everything, number, color]))
    assert signs.other == 1


def test_a_property_may_be_the_best_of_the_base_though_another_is_likelier() -> None:
    encoder = HashingEncoder(16)
    shares = []
    for background in ((), tuple(f"common {n}" for n in range(40))):
        asking = adapter(background=background)
        judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"])
        found = [("Anvil 3", prop, 0.2) for prop in ("price", "weight")]
        shares.append(judge.signs([judged(f"the p{n} of Anvil 3", *found) for n in range(20)]))
    alone, beside = ([one for each in signs for one in each] for signs in shares)
    assert [one.best for one in alone] == [one.best for one in beside]
    assert any(one.best for one in alone)
    assert all(more.share < less.share for less, more in zip(alone, beside, strict=True))


def test_a_question_for_everything() -> None:
    """A score is a cosine of the sentence vectors here: what is asked as its key is written has the largest share."""
    asking = adapter()
    assert asking.property_head is not None
    with torch.no_grad():
        asking.property_head.property.weight.copy_(asking.property_head.question.weight)
        asking.property_head.log_scale.fill_(3.5)
    encoder = HashingEncoder(16)
    judge = Judge(asking, lambda texts: vectors(encoder, texts), [f"property {n}" for n in range(20)])
    about, one = judge.verdicts(
        [
            judged("the everything of Anvil 3", ("Anvil 3", "property 1", 0.3)),
            judged("the property 1 of Anvil 3", ("Anvil 3", "property 1", 0.3)),
        ]
    )
    assert about.asks_everything == (True,)
    assert one.asks_everything == (False,)
    assert about.confidences < one.confidences


def test_who_says_a_property_of_several_words_asks_for_that() -> None:
    asking = adapter()
    assert asking.property_head is not None
    with torch.no_grad():
        asking.property_head.property.weight.copy_(asking.property_head.question.weight)
        asking.property_head.log_scale.fill_(5.0)  # "everything" has most whatever is said
    encoder = HashingEncoder(16)

    def alike(texts: list[str]) -> torch.Tensor:
        return vectors(encoder, ["the everything of it" if "all" in text else text for text in texts])

    judge = Judge(asking, alike, ["color", "part", "shoe size"])
    found = ("Anvil 3", "color", 0.3)
    of_all, by_chance, of_one = judge.verdicts(
        [judged(f"all {text} of Anvil 3", found) for text in ("", "the part", "I ask is the shoe size")]
    )
    assert of_all.asks_everything == by_chance.asks_everything == (True,)
    assert of_one.asks_everything == (False,)


def test_a_description_has_the_share_of_everything_besides() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["description", "weight"])
    found = [("Anvil 3", prop, 0.25) for prop in ("description", "weight")]
    ((described, weight),) = judge.signs([judged("What is Anvil 3 all about?", *found)])
    asked = vectors(encoder, ["What is it all about?"])
    keys = vectors(encoder, [f"the {p} of it" for p in ("everything", "description", "weight")])
    everything, alone, heavy = shares_of(asking, asked, keys)[0].exp().tolist()
    assert described.share == pytest.approx(against(alone + everything, of_none=[everything]))
    assert weight.share == pytest.approx(against(heavy, of_none=[everything]))
    assert described.best == (alone + everything >= max(everything, heavy))


def test_a_description_that_an_entity_lacks_asks_for_everything() -> None:
    """Whoever asks "Describe it" wants to know what there is; who says "description" wants that."""
    encoder, asking = HashingEncoder(16), adapter(background=("description",))
    assert asking.property_head is not None
    with torch.no_grad():
        asking.property_head.property.weight.copy_(asking.property_head.question.weight)
        asking.property_head.log_scale.fill_(3.5)
    keys = vectors(encoder, [f"the {p} of it" for p in ("everything", "description", "weight")])
    asked = [f"Anvil 3, how is it in {place}?" for place in range(100)]
    shares = shares_of(asking, vectors(encoder, [text.replace("Anvil 3", "it") for text in asked]), keys).exp()
    describing = [
        text
        for text, (everything, described, _) in zip(asked, shares.tolist(), strict=True)
        if everything < 0.45 and everything + described > 0.55
    ]
    assert len(describing) > 5
    weight = ("Anvil 3", "weight", 0.3)
    of_background, of_another = (
        Judge(asking, lambda texts: vectors(encoder, texts), own) for own in (["weight"], ["weight", "description"])
    )
    for judge in (of_background, of_another):
        for verdict in judge.verdicts([judged(text, weight) for text in describing]):
            assert verdict.asks_everything == (True,)
    for verdict in of_another.verdicts([judged(text, weight, ("Anvil 3", "description", 0.2)) for text in describing]):
        assert verdict.asks_everything == (False, False), "it has one"
    typed = ("Anvil 3", "Description", 0.2)
    for verdict in of_another.verdicts([judged(text, weight, typed) for text in describing]):
        assert verdict.asks_everything == (False, False), "it has one in other letters"
    (said,) = of_another.verdicts([judged("the description of Anvil 3", weight)])
    assert said.asks_everything == (False,)


def test_a_question_reads_no_property_that_it_is_not_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """The properties of a large knowledge base are read once, not for every question."""
    read = list[str]()
    monkeypatch.setattr(shares, "words", lambda text: read.append(text) or words(text))
    encoder, asking = HashingEncoder(16), adapter()
    counts = []
    for many in (10, 500):
        judge = Judge(asking, lambda texts: vectors(encoder, texts), [f"property {n}" for n in range(many)])
        read.clear()
        judge.signs([judged("What is the price of Anvil 3?", ("Anvil 3", "property 3", 0.2))])
        counts.append(len(read))
    assert counts[0] == counts[1] > 0


def test_a_column_in_capitals_describes_too() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["DESCRIPTION", "weight"])
    ((described,),) = judge.signs([judged("What is Anvil 3 all about?", ("Anvil 3", "DESCRIPTION", 0.25))])
    keys = vectors(encoder, [f"the {p} of it" for p in ("everything", "DESCRIPTION", "weight")])
    everything, alone, weight = shares_of(asking, vectors(encoder, ["What is it all about?"]), keys)[0].exp().tolist()
    assert described.share == pytest.approx(against(alone + everything, [weight], [everything]))


def test_a_head_of_its_own_takes_the_place_of_the_adapter_s() -> None:
    """The calibration judges by one that has not learned the phrasings it asks in."""
    encoder, asking, other = HashingEncoder(16), adapter(), adapter()
    torch.manual_seed(5)
    head = PropertyHead(16, 4)
    one = [judged("the price of Anvil 3", ("Anvil 3", "price", 0.25))]
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"], head=head)
    ((found,),) = judge.signs(one)
    other.property_head = head
    ((wanted,),) = Judge(other, lambda texts: vectors(encoder, texts), ["price", "weight"]).signs(one)
    assert found == wanted
    ((own,),) = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight"]).signs(one)
    assert found.share != own.share


def test_a_property_is_beaten_by_the_likeliest_one_if_the_question_says_that() -> None:
    """A cosine of the sentence vectors: what is asked as its key is written has the largest share."""
    encoder, asking = HashingEncoder(16), adapter(background=("phone number",))
    assert asking.property_head is not None
    with torch.no_grad():
        asking.property_head.property.weight.copy_(asking.property_head.question.weight)
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price", "weight", "place of discovery"])
    found = [("Anvil 3", prop, 0.2) for prop in ("price", "weight")]

    def beaten(text: str) -> list[float]:
        return [one.beaten for one in judge.signs([judged(text, *found)])[0]]

    assert beaten("the place of discovery of Anvil 3") == [1, 1], "another of the base's own"
    assert beaten("the phone number of Anvil 3") == [1, 1], "one of the background"
    assert beaten("the price of Anvil 3") == [0, 1]
    assert beaten("the everything of Anvil 3") == [1, 1]
    assert beaten("the place of discovery of another") == [0, 0], "no share is asked for without the name"
    head, others = asking.property_head, ["everything", "phone number", "place of discovery"]
    keys = head.keys(vectors(encoder, [f"the {p} of it" for p in [*others, "price", "weight"]]))
    likeliest = {
        text: int(head.log_shares(vectors(encoder, [text.replace("Anvil 3", "it")]), keys).argmax())
        for text in (f"Anvil 3, how much is it in {place}?" for place in range(40))
    }
    assert set(likeliest.values()) >= {0, 1, 2}
    for text, place in likeliest.items():
        if place < len(others):
            assert beaten(text) == [0, 0], "the likeliest is not said"


def test_a_property_is_not_beaten_by_itself_in_other_letters() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    assert asking.property_head is not None
    with torch.no_grad():
        asking.property_head.property.weight.copy_(asking.property_head.question.weight)
    judge = Judge(
        asking, lambda texts: vectors(encoder, [text.lower() for text in texts]), ["price", "Price", "weight"]
    )
    found = [("Anvil 3", prop, 0.2) for prop in ("price", "Price", "weight")]
    for text in ("the price of Anvil 3", "the Price of Anvil 3"):
        assert [one.beaten for one in judge.signs([judged(text, *found)])[0]] == [0, 0, 1]


def test_an_identifier_within_a_longer_name_is_not_meant() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], ["__init__", "__init__ method"])
    asked = [
        judged(f"What is the price of the {one}?", ("__init__", "price", 0.3))
        for one in ("__init__ method", "__init__")
    ]
    assert [signs[0].name for signs in judge.signs(asked)] == [0, 1]


def test_names_are_found_where_they_stand() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], ["Tin", "Old Tin", "Lead"])
    text = "lead's price, and what of Old  tin?"
    assert [text[start:end] for start, end in judge.names_in(text)] == ["lead", "Old  tin"]
    assert judge.names_in("leader") == []


def test_the_properties_of_the_knowledge_base_are_known_by_their_words() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    asking.config = replace(asking.config, background=("motto",))
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["Date of birth"])
    assert judge.is_property("date  of Birth")
    assert not any(map(judge.is_property, ("date", "birth", "motto", "everything", "")))
    judge.compare_with(["price"])
    assert (judge.is_property("date of birth"), judge.is_property("price")) == (False, True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Which color do Old Tin and Tin have?", [(15, 22), (27, 30)]),
        ("Tin's color, and tin's price", [(0, 3)]),
        ("the color of Old Tin Mine", [(13, 20)]),  # two that overlap are one
        ("DIE GRÖSSE DER HAUPTSTRASSE UND ISTANBULS", [(15, 27)]),
        ("Hauptstraße oder İstanbul?", [(0, 11), (17, 25)]),
    ],
)
def test_names_are_found_where_they_are_meant(text: str, said: list[tuple[int, int]]) -> None:
    encoder, asking = HashingEncoder(16), adapter()
    names = ["Tin", "Old Tin", "Tin Mine", "Hauptstraße", "İstanbul"]
    assert Judge(asking, lambda texts: vectors(encoder, texts), ["price"], names).names_in(text) == said


def test_a_name_that_has_a_property_in_it_says_none() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["height", "founder"], ["Height Tower"])
    height = ("Height Tower", "height", 0.5)
    asked = ["Where is Height Tower?", "Height Tower, where is Height Tower?", "What is the height of Height Tower?"]
    assert [one.property for (one,) in judge.signs([judged(text, height) for text in asked])] == [0, 0, 1]


def test_a_verdict_says_which_names_are_meant() -> None:
    encoder, asking = HashingEncoder(16), adapter()
    judge = Judge(asking, lambda texts: vectors(encoder, texts), ["price"], ["mind", "東京", "東京タワー"])
    found = [(name, "price", 0.5) for name in ("mind", "東京", "東京タワー")]
    asked = ["Do you mind?", "Tell me about mind.", "東京タワーについて教えて"]
    verdicts = judge.verdicts([judged(text, *found) for text in asked])
    assert [one.named for one in verdicts] == [(False, False, False), (True, False, False), (False, False, True)]
