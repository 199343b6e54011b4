"""What an answer is made from, decided once, from the attention at the prompt's end.

In this order: the facts of a question about several, each found by its own part; those of its parts that are known; the
likeliest triple; the triples of an entity that the question asks about as a whole. What none of them finds is
unknown. `docs/answers.md` has the same in words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from kblam.adapter import AdapterConfig
from kblam.adapter.confidence import Signs
from kblam.adapter.sentences import Sentence, answer_sentence
from kblam.errors import GenerationError
from kblam.generation.clauses import Split
from kblam.generation.words import Found
from kblam.knowledge.filler import FILLER
from kblam.knowledge.identifiers import forms, key
from kblam.knowledge.mention import mentions, spans_of, words

Unknown = Literal["refuse", "base"]
# "How do you say A?" and "How else can you say A?" are made of words that ask for nothing else.
_HOW_TO_SAY = frozenset(("how", "say"))
# A question about a whole entity is answered by so many of its triples at most.
MOST_OF_ENTITY = 3


@dataclass(frozen=True)
class Rules:
    """How a session decides.

    Args:
        config: the adapter's: the sentences, and whether there is a pointer.
        known_above: the confidence from which a question counts as known; None leaves that to the model.
        unknown: what happens to a question that is not known; None leaves that to the model.
    """

    config: AdapterConfig
    known_above: float | None
    unknown: Unknown | None

    def is_known(self, found: Sequence[Found]) -> bool:
        """Whether it is sure enough that the first triple answers. Where nobody judged, its mass decides."""
        if not found or self.known_above is None:
            return False
        sure = found[0].mass if found[0].confidence is None else found[0].confidence
        return sure >= self.known_above

    def knows_entity(self, mass: float) -> bool:
        """Whether a name that the question says and asks nothing in particular about is known, by its triples' mass."""
        if self.known_above is None:
            return False
        sure = self.entity_confidence(mass)
        return (mass if sure is None else sure) >= self.known_above

    def entity_confidence(self, mass: float) -> float | None:
        """The same as a probability; None without weights."""
        weights = self.config.confidence
        return None if weights is None else weights.of(Signs(mass, name=1, property=1, other=0, share=0, best=1))

    def insists_on(self, decision: Decision) -> bool:
        """Whether the model is not asked for any token of a decision."""
        return self.unknown is not None and decision.is_sure

    @property
    def leaves_nothing(self) -> bool:
        """Whether all that is said is decided at the prompt's end, but for sentences that a tokenizer cannot write."""
        return self.config.pointer and self.unknown is not None and self.config.confidence is not None

    @property
    def cuts(self) -> bool:
        """Whether questions about two facts are told apart."""
        return self.config.pointer and self.known_above is not None


def rules_of(
    config: AdapterConfig, unknown: Unknown | Literal["auto"] | None = "auto", known_above: float | None = None
) -> Rules:
    """The rules of whoever asks.

    Args:
        config: of the adapter.
        unknown, known_above: as `Session` takes them.

    Raises:
        GenerationError: they cannot be with this adapter.
    """
    known_above = config.known_above if known_above is None else known_above
    if unknown == "auto":
        unknown = None if known_above is None else "refuse"
    if unknown not in ("refuse", "base", None):
        raise GenerationError(f'unknown must be "refuse", "base", "auto" or None; got {unknown!r}')
    if known_above is None and unknown is not None:
        raise GenerationError(
            f"unknown={unknown!r} needs a mass to decide by, and this adapter has no known_above: calibrate it, or "
            "pass known_above=, or unknown=None"
        )
    if unknown == "refuse" and not config.refusal.strip():
        raise GenerationError(
            "unknown='refuse' needs a sentence to refuse with, and the adapter's refusal is empty; pass "
            "unknown='base', or unknown=None"
        )
    if known_above is not None and not (isinstance(known_above, int | float) and 0 <= known_above <= 1):
        raise GenerationError(f"known_above must be a share of 0 .. 1; got {known_above!r}")
    return Rules(config, known_above, unknown)


@dataclass(frozen=True)
class AskedSplit:
    """A way to cut a question, and what each part found when it was asked alone, the likeliest answer first."""

    split: Split
    found: tuple[tuple[Found, ...], ...]

    @property
    def masses(self) -> list[float]:
        """The mass of each part's answer."""
        return [found[0].mass if found else 0.0 for found in self.found]

    @property
    def sure(self) -> list[float]:
        """How sure each part's answer is: its confidence; its mass where nobody judged."""
        return [
            0.0 if not found else found[0].mass if found[0].confidence is None else found[0].confidence
            for found in self.found
        ]

    def known(self, rules: Rules) -> list[bool]:
        """Whether each part is known."""
        return [rules.is_known(found) for found in self.found]


@dataclass(frozen=True)
class Decision:
    """What is to be said.

    Args:
        mass: of the triple that answers, of the entity asked about, or the smallest of the parts; of the strongest
            triple if none answers.
        is_known: whether that is sure enough (`Rules.is_known`).
        sentence: the text to say, or None to leave all to the model.
        facts: the triples that the sentence's facts are copied from.
        is_forced: whether the sentence is said whatever the model wants.
        is_base: whether the base model answers instead.
        is_sure: whether the model's own wish to refuse no longer counts. It does where only the mass was asked and the
            question does not say the triple's name and property: then both have to be for an answer.
        confidence: of the least sure of its facts, of a whole entity, or that the likeliest triple would answer; None
            where the adapter has no weights for it.
    """

    mass: float
    is_known: bool = False
    sentence: Sentence | None = None
    facts: tuple[Found, ...] = ()
    is_forced: bool = False
    is_base: bool = False
    is_sure: bool = False
    confidence: float | None = None

    @property
    def is_refusal(self) -> bool:
        """Whether the refusal sentence is said, however little of it there is room for."""
        return self.is_forced and not self.is_base


def decide(rules: Rules, question: str | None, found: Sequence[Found], cuts: Sequence[AskedSplit] = ()) -> Decision:
    """What to say to one question.

    Args:
        rules: the session's.
        question: its text; None if it is not known, then it cannot be about a whole entity.
        found: what the whole question found at the end of its prompt, the likeliest answer first.
        cuts: its splits, asked part by part.
    """
    decision = _decided(rules, question, found, cuts)
    if decision.confidence is not None:
        return decision
    sure = [one.confidence for one in decision.facts or found[:1]]
    judged = [one for one in sure if one is not None]
    return replace(decision, confidence=min(judged)) if judged and len(judged) == len(sure) else decision


def _decided(rules: Rules, question: str | None, found: Sequence[Found], cuts: Sequence[AskedSplit]) -> Decision:
    strongest = max((one.mass for one in found), default=0.0)
    if rules.known_above is None:
        return _facts(rules, found[:1], found[0].mass if found else 0.0, is_known=False)
    cuts = [] if question is None else [cut for cut in cuts if not _inside_a_name(question, cut, found)]
    whole = [cut for cut in cuts if all(cut.known(rules)) and _fits(cut)]
    complete = [cut for cut in whole if not _leaves_out(question, cut, cuts)]
    if not complete and (partly := _known_parts(rules, question, found, cuts)) is not None:
        return partly
    if whole:
        best = max(complete or whole, key=lambda cut: (_covered(question, cut), min(cut.sure)))
        return _facts(rules, [part[0] for part in best.found], min(best.masses), is_sure=True)
    if rules.is_known(found):
        # Where only the mass was asked, the model is asked too, unless the question says the triple in so many words.
        named = question is not None and mentions(question, found[0].triple.name, found[0].triple.property)
        return _facts(rules, found[:1], found[0].mass, is_sure=named or found[0].confidence is not None)
    if question is not None and (of_entity := _about_entity(question, found)):
        together = min(1.0, sum(one.mass for one in of_entity))
        if rules.knows_entity(together):
            told = _facts(rules, of_entity[:MOST_OF_ENTITY], together, apart=True, is_sure=True)
            return replace(told, confidence=rules.entity_confidence(together))
    if rules.unknown == "base":
        return Decision(strongest, is_forced=True, is_base=True)
    if rules.unknown == "refuse":
        return Decision(strongest, sentence=Sentence(rules.config.refusal), is_forced=True)
    return _facts(rules, found[:1], found[0].mass if found else 0.0, is_known=False)


def _facts(
    rules: Rules,
    facts: Sequence[Found],
    mass: float,
    *,
    is_known: bool = True,
    apart: bool = False,
    is_sure: bool = False,
) -> Decision:
    if not facts or not rules.config.pointer:
        return Decision(mass, is_known)
    said = [(one.triple.name, one.triple.property, one.triple.value) for one in facts]
    sentence = answer_sentence(rules.config.answer, said[:1] if apart else said)
    for fact in said[1:] if apart else ():
        sentence = sentence + Sentence(" ") + answer_sentence(rules.config.answer, [fact])
    return Decision(mass, is_known, sentence, tuple(facts), is_sure=is_sure)


def _fits(cut: AskedSplit) -> bool:
    """Whether the parts' answers are what such a cut asks for: each another triple, and no guess at a whole entity."""
    answers = [found[0] for found in cut.found]
    if cut.split.one_property and len({key(one.triple.property) for one in answers}) > 1:
        return False
    if not cut.split.is_explicit and any(one.asks_everything for one in answers):
        return False
    return len({one.place for one in answers}) == len(answers)


def _covered(question: str | None, cut: AskedSplit) -> int:
    """How many different names and properties of the parts' answers the whole question says.

    "The longitude of A and the city of B" may be cut into the longitude of A and that of B, which says too little. One
    that is only said inside a longer one counts against a cut: "the country of origin of A and B" asks for no country.
    A property inside a name is not said: "Height Tower" asks for no height.
    """
    if question is None:
        return 0
    answers = [found[0].triple for found in cut.found]
    counted, names = 0, list[tuple[int, int]]()
    for texts in ([(one.name,) for one in answers], [forms(one.property) for one in answers]):
        said: dict[str, set[tuple[int, int]]] = {}
        for of_one in texts:
            places = {place for text in of_one for place in spans_of(question, text)}
            outside = {place for place in places if not _is_inside(place, names)}
            said.setdefault(" ".join(words(of_one[-1])), set()).update(outside)
        every = [place for places in said.values() for place in places]
        names = names or every
        for places in said.values():
            if places:
                counted += -1 if all(_is_inside(place, every) for place in places) else 1
    return counted


def _is_inside(place: tuple[int, int], others: Sequence[tuple[int, int]]) -> bool:
    """Whether characters [start, end) are part of a longer stretch."""
    return any(start <= place[0] and place[1] <= end and place != (start, end) for start, end in others)


def _inside_a_name(question: str, cut: AskedSplit, found: Sequence[Found]) -> bool:
    """Whether a cut goes through the name of a triple that the whole question found: "Procter and Gamble"."""
    names = _names(question, found)
    return any(at < start and end < stop for start, end in cut.split.cuts if start < end for at, stop in names)


def _leaves_out(question: str | None, cut: AskedSplit, cuts: Sequence[AskedSplit]) -> bool:
    """Whether a part of a cut has items of which its answer is only one: "the color of A, B" and "the color of C".

    A comma in the name of an answer is none between items.
    """
    if question is None:
        return False
    names = _names(question, [found[0] for found in cut.found])
    return any(
        len(cut.split.cuts)
        < sum(not any(at < start and end < stop for at, stop in names) for start, end in longer.split.cuts)
        for longer in cuts
        if longer.split.is_explicit
    )


def _names(question: str, found: Sequence[Found]) -> list[tuple[int, int]]:
    """The characters [start, end) where a question says the names of triples."""
    return [place for name in {one.triple.name for one in found} for place in spans_of(question, name)]


def _known_parts(
    rules: Rules, question: str | None, found: Sequence[Found], cuts: Sequence[AskedSplit]
) -> Decision | None:
    """The known parts' facts, then the refusal sentence, if the question names several facts and not all are known.

    Not where the whole question finds something else than the parts do: then it may be about that.
    """
    if rules.unknown is None or not rules.config.pointer:
        return None
    for cut in cuts:
        parts = cut.split.parts
        known = [
            (part, of[0]) for part, of, is_known in zip(parts, cut.found, cut.known(rules), strict=True) if is_known
        ]
        if not cut.split.is_explicit or not 0 < len(known) < len(parts):
            continue
        # Of a list the items tell what is asked: "Who founded A, B and C?" says no "founder".
        if not all(_says(part, one, both=len(parts) == 2) for part, one in known):
            continue
        facts = list({one.place: one for _, one in known}.values())
        if rules.is_known(found) and found[0].place not in [one.place for one in facts]:
            # The color of B is not what "the color of A and the founder of B" asks for.
            is_mixed = question is not None and _says(question, found[0]) and not any(_says(p, found[0]) for p in parts)
            if not is_mixed:
                continue
        said = [(one.triple.name, one.triple.property, one.triple.value) for one in facts]
        sentence = answer_sentence(rules.config.answer, said) + Sentence(" " + rules.config.refusal)
        return Decision(min(one.mass for one in facts), True, sentence, tuple(facts), is_sure=True)
    return None


def _says(text: str, found: Found, *, both: bool = True) -> bool:
    """Whether a text has a triple's name, and with `both` its property, word for word."""
    return mentions(text, found.triple.name, found.triple.property if both else found.triple.name)


def _about_entity(question: str, found: Sequence[Found]) -> list[Found]:
    """The triples of the entity that the question names, if it asks for nothing in particular.

    The strongest first: none is likelier than another to answer such a question.
    """
    # Not "mind" in "Do you mind?", nor a name within a longer one: the judge knows what is only said.
    names = dict.fromkeys(one.triple.name for one in found if one.is_named is not False)
    places = {name: at for name in names if (at := next(spans_of(question, name), None)) is not None}
    if not places:
        return []
    # Of a name inside a longer one the longer one is meant.
    named = max(places, key=lambda name: len(words(name)))
    start, end = places[named]
    of_entity = [one for one in found if one.triple.name == named]
    beside = {*words(question[:start]), *words(question[end:])}
    is_bare = FILLER.issuperset(beside) and not _HOW_TO_SAY.issubset(beside)
    return sorted(of_entity, key=lambda one: -one.mass) if is_bare or of_entity[0].asks_everything else []
