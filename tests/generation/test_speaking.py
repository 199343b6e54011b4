"""Text that is sent while an answer is generated is never taken back."""

from __future__ import annotations

from threading import Event

import pytest
import torch

from kblam.generation import Answer
from kblam.generation.reading import trimmed
from kblam.generation.speaking import Speaker, StoppedError
from tests.generation.asking import byte_bpe, sentence_piece


def spoken(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], Answer, str]:
    """Pieces of a text that is generated token by token, the whole, and what was sent before it was whole."""
    pieces: list[str] = []
    tokenizer = byte_bpe()
    speaker = Speaker(tokenizer, stops, pieces.append, Event())
    speaker.put(torch.zeros(1, 7, dtype=torch.long))
    assert (speaker.prompt_tokens, pieces) == (7, [])
    for token in tokenizer(text)["input_ids"]:
        speaker.put(torch.tensor([token]))
    before = "".join(pieces)
    answer = speaker.finish(Answer(trimmed(text, stops), (), False, 1))
    return pieces, answer, before


def test_pieces_put_together_are_the_answer() -> None:
    pieces, answer, _ = spoken("  The budget of Łucja 🦅 is   4,711.  \n")
    assert len(pieces) > 5
    assert "".join(pieces) == answer.text == "The budget of Łucja 🦅 is   4,711."
    assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize(
    ("text", "stops", "said"),
    [
        ("one two three", ("two",), "one"),
        ("one two three", ("three", "two"), "one"),
        ("one tw", ("two",), "one tw"),
        ("ababac", ("abac",), "ab"),
        ("one\n\nUser: more", ("\nUser:",), "one"),
        ("two", ("two",), ""),
        ("one two ", ("two ",), "one"),
        ("  two", (" two",), ""),
        ("\n\n", ("\n\n",), ""),
        (" one  ", ("two ",), "one"),
        ("done #😀 x", ("#😀",), "done"),
        ("done #😁 x", ("#😀",), "done #😁 x"),
        ("Antwort: ja ###ÄNDERN", ("###Ä",), "Antwort: ja"),
    ],
)
def test_what_may_begin_a_stop_string_is_held_back(text: str, stops: tuple[str, ...], said: str) -> None:
    pieces, answer, before = spoken(text, stops)
    assert "".join(pieces) == answer.text == said
    assert said.startswith(before)


def test_an_answer_that_nobody_wants_ends() -> None:
    stopped = Event()
    speaker = Speaker(byte_bpe(), (), lambda _: None, stopped)
    speaker.put(torch.zeros(1, 2))
    stopped.set()
    with pytest.raises(StoppedError):
        speaker.put(torch.tensor([1]))


def test_what_the_tokenizer_cannot_write_is_not_sent_twice() -> None:
    pieces: list[str] = []
    tokenizer = byte_bpe()
    speaker = Speaker(tokenizer, (), pieces.append, Event())
    speaker.put(torch.zeros(1, 1))
    for token in tokenizer("the motto")["input_ids"]:
        speaker.put(torch.tensor([token]))
    answer = speaker.finish(Answer("The Motto", (), False, 1))
    assert ("".join(pieces), answer.text) == ("the motto", "The Motto")


def test_bytes_that_change_what_was_sent_lose_nothing_after_them() -> None:
    """One byte too many makes its whole run unreadable, a character that was whole before it too."""
    pieces: list[str] = []
    tokenizer = sentence_piece()
    speaker = Speaker(tokenizer, ("Euro",), pieces.append, Event())
    speaker.put(torch.zeros(1, 1))
    run = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in (*"😀".encode(), 0xF0, 0x9F)])
    before, after = (tokenizer(text)["input_ids"] for text in ("The currency", " of France is Euro"))
    for token in [*before, *run, *after]:
        speaker.put(torch.tensor([token]))
    unreadable = "\ufffd" * 6
    answer = speaker.finish(Answer(f"The currency{unreadable} of France is Euro", (), False, 1))
    assert answer.text == f"The currency{unreadable} of France is"
    assert "".join(pieces) == f"The currency😀{unreadable[1:]} of France is"
