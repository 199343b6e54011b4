"""Which part of a long text is its question."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kblam.evaluation.loop import RememberingEncoder
from kblam.knowledge.asking import asked_in
from kblam.knowledge.encoders import layered
from kblam.knowledge.encoders.base import beyond_limit, reads_all
from tests.fakes import DeepEncoder, HashingEncoder
from tests.timing import is_done_within

SKY = "The sky is blue today. Grass is green and long. We went home at nine. "
ASK = "What is the founder of Elm Hall?"


class Reader(DeepEncoder):
    """Reads twelve words of a text, or as many characters as are told."""

    def __init__(self, characters: int | None = None) -> None:
        super().__init__(8)
        self.characters = characters

    def beyond_limit(self, texts: Sequence[str]) -> list[int]:
        lengths = [len(text) if self.characters else len(text.split()) for text in texts]
        return [at for at, length in enumerate(lengths) if length > (self.characters or 12)]


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (ASK, ASK),
        ("  Grass is long.\n\n" + ASK + "\n", "  Grass is long.\n\n" + ASK + "\n"),  # twelve words: as it was
        (SKY + ASK, "We went home at nine. " + ASK),
        (ASK + " " + SKY, ASK + " We went home at nine."),
        ("Why is that? " + SKY + ASK, "Why is that? " + ASK),
        ("Name it! " + SKY + "Is it Elm Hall? " + SKY, "Name it! Is it Elm Hall? We went home at nine."),
        ("What a day it was. " + SKY * 3 + "Is it Elm Hall that you know, or Fox Ridge?",
         "Is it Elm Hall that you know, or Fox Ridge?"),
        (SKY + "\nthe usual things in a row of words\nTell me the founder of Elm Hall\nThanks a lot",
         "Tell me the founder of Elm Hall\nThanks a lot"),
        (SKY + "Dr. Lee asks for the founder of St. Ives", "Dr. Lee asks for the founder of St. Ives"),
        ("the sky is blue and so on and on and on and on, what is the founder of A",
         "what is the founder of A"),
        ("the sky is blue and so on and on and on and on, in which town is A", "in which town is A"),
        ("the sky is blue and so on and on and on and on the founder of A",
         "so on and on and on and on the founder of A"),
        ("What is the founder of A, given that the sky is blue and so on, tell me it",
         "What is the founder of A, given that the sky is blue and so on, tell me it"),
    ],
)  # fmt: skip
def test_what_an_encoder_cannot_read_whole_is_what_asks_and_the_last_of_the_rest(text: str, asked: str) -> None:
    assert asked_in(text, Reader()) == asked


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        (
            "これは長い文章です。もう一つの長い文章です。Aの創業者は誰ですか？",
            "もう一つの長い文章です。Aの創業者は誰ですか？",
        ),
        ("هذه جملة طويلة جدا۔ من هو مؤسس ألف؟ هذه جملة أخرى طويلة۔", "من هو مؤسس ألف؟"),
        ("यह एक लंबा वाक्य है। ए का संस्थापक कौन है? यह भी है। बस।", "ए का संस्थापक कौन है? बस।"),
    ],
    ids=["ja", "ur", "hi"],
)
def test_in_other_scripts_too(text: str, asked: str) -> None:
    assert asked_in(text, Reader(characters=26)) == asked


@given(st.lists(st.sampled_from(["Ann", "asks", "what", "is", "it?", "Yes.", "No,", "\n", "。", "hi"]), max_size=60))
def test_it_is_a_part_of_the_text_that_fits(pieces: list[str]) -> None:
    text, reader = " ".join(pieces), Reader()
    part = asked_in(text, reader)
    assert reads_all(reader, part) or part in text
    if reads_all(reader, text):
        assert part == text
    else:
        assert part.split()
        assert set(part.split()) <= set(text.split())


@pytest.mark.parametrize(
    "piece", ["what, ", "a. ", "。", "?", "A b. ", "\n", " ", "hi ", "hi", "what is ", "x", "' ", "St. "], ids=ascii
)
def test_a_long_text_takes_no_time(piece: str) -> None:
    for opening in ("", "hi", "What is "):
        text = opening + piece * 20_000 + "x"
        assert is_done_within(5, lambda text=text: asked_in(text, Reader(characters=900)))


def test_encoders_around_one_that_tells_its_limit_tell_it() -> None:
    long = ["word " * 13, "word"]
    for encoder in (Reader(), layered(Reader(), (1,)), RememberingEncoder(Reader())):
        assert beyond_limit(encoder, long) == [0]
    for encoder in (HashingEncoder(8), layered(DeepEncoder(8), (1,)), RememberingEncoder(HashingEncoder(8))):
        assert beyond_limit(encoder, long) == []
