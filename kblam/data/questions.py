"""How facts are asked about, and what the right answers are."""

from __future__ import annotations

import random

from kblam.knowledge.triples import key_text

PLAIN_QUESTIONS: tuple[str, ...] = (
    "What is the {p} of {n}?",
    "what is {n}'s {p}?",
    "Tell me the {p} of {n}.",
    "Can you tell me the {p} of {n}?",
    "Could you tell me what the {p} of {n} is?",
    "Do you know the {p} of {n}?",
    "What {p} does {n} have?",
    "Which {p} does {n} have?",
    "I want to know the {p} of {n}.",
    "I would like to know {n}'s {p}.",
    "Please describe the {p} of {n}.",
    "Describe {n}'s {p}.",
    "Give me the {p} of {n}.",
    "Let me know the {p} of {n}, please.",
    "Explain the {p} of {n}.",
    "How would you describe the {p} of {n}?",
    "What can you say about the {p} of {n}?",
    "Provide details on the {p} of {n}.",
    "Do you remember {n}'s {p}?",
    "What do you know about the {p} of {n}?",
    "For {n}, what is the {p}?",
    "About {n}: what is its {p}?",
    "What's the {p} of {n}?",
    "what is the {p} of {n}",
    "{n}'s {p}?",
    "The {p} of {n}, please.",
    "I am curious about the {p} of {n}.",
    "Look up the {p} of {n}.",
    "As for {n}, which {p} is it known for?",
    "Find the {p} for {n}.",
    "Remind me of {n}'s {p}.",
    "{n}: {p}?",
)

QUESTIONS: tuple[str, ...] = (
    *PLAIN_QUESTIONS,
    "{p} of {n}?",
    "{p} of {n}",
    "Is there a {p} for {n}?",
    "I am looking for {n}'s {p}.",
    "We are asked for the {p} that belongs to {n}.",
    "Has {n} got a {p}, and which?",
    "When it comes to {n}, how about the {p}?",
    "Would you say what the {p} of {n} is?",
    "Could somebody name {n}'s {p}?",
    "The thing called {n} has which {p}?",
    "My question is about {n}, namely its {p}.",
    "Show {n} and its {p}.",
)

# Nothing but the name and the property to go by: harder than their share of QUESTIONS gives practice for.
TERSE_QUESTIONS: tuple[str, ...] = ("{p} of {n}?", "{p} of {n}", "{n}'s {p}?", "{n}: {p}?")

# Put before and after a question now and then, so that names are found by their place in the sentence and not by
# the absence of other words.
OPENINGS: tuple[str, ...] = (
    "Hello,",
    "Hi there,",
    "Quick question:",
    "Excuse me,",
    "Please tell me:",
    "I was wondering,",
    "My friend wants to know:",
    "One more thing:",
    "Now then,",
    "Be so kind:",
    "Just to be sure,",
    "Help me out here:",
    "As far as you know,",
    "If you can,",
    "Okay, next:",
    "For my homework:",
    "We need this today:",
    "Question from a visitor:",
    "Be honest,",
    "Once again:",
)
CLOSINGS: tuple[str, ...] = (
    "Thanks!",
    "Thank you.",
    "Be brief.",
    "I forgot.",
    "It is important.",
    "Any idea?",
    "Take your time.",
    "Can you help?",
    "I must know.",
    "Nobody told me.",
)

# Phrasings that training never sees.
HELD_OUT_QUESTIONS: tuple[str, ...] = (
    "the {p} of {n}",
    "{n} {p}?",
    "I need to find out what {p} {n} has.",
    "Would you mind sharing the {p} of {n} with me?",
    "In case of {n}, what would its {p} be?",
    "Say, what is {n}'s {p} like?",
)

PAIR_QUESTIONS: tuple[str, ...] = (
    "What is the {p1} of {n1} and the {p2} of {n2}?",
    "Tell me the {p1} of {n1} and the {p2} of {n2}.",
    "What are {n1}'s {p1} and {n2}'s {p2}?",
    "Do you know the {p1} of {n1}, and also the {p2} of {n2}?",
    "Give me {n1}'s {p1} and {n2}'s {p2}.",
    "I want to know the {p1} of {n1} and the {p2} of {n2}.",
)


def clauses(facts: list[tuple[str, str, str]], *, brief: bool = True) -> list[tuple[str, str]]:
    """An answer as (text, value) pairs for `(name, property, value)` facts; it reads text, value, text, value, "."

    Args:
        brief: an answer about a single fact does not repeat the name. Of two facts each clause names its entity.
    """
    if brief and len(facts) == 1:
        ((_, prop, value),) = facts
        return [(f"the {prop} is", value)]
    return [
        (("and " if index else "") + f"{key_text(name, prop)} is", value)
        for index, (name, prop, value) in enumerate(facts)
    ]


def answer_text(facts: list[tuple[str, str, str]]) -> str:
    """The right answer to a question about `(name, property, value)` facts."""
    return " ".join(f"{text} {value}" for text, value in clauses(facts)) + "."


def dress(question: str, rng: random.Random) -> str:
    """A question as people type it: sometimes with an opening or a closing."""
    if rng.random() < 0.25:
        question = f"{rng.choice(OPENINGS)} {question}"
    if rng.random() < 0.12:
        question = f"{question} {rng.choice(CLOSINGS)}"
    return question


def single_question(template: str, name: str, prop: str) -> str:
    """A question about one fact, from a template of QUESTIONS or HELD_OUT_QUESTIONS."""
    return template.format(n=name, p=prop)


def pair_question(template: str, first: tuple[str, str], second: tuple[str, str]) -> str:
    """A question about two facts, each given as (name, property)."""
    return template.format(n1=first[0], p1=first[1], n2=second[0], p2=second[1])
