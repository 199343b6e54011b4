"""A sentence as the tokens that a model would say after its prompt, whatever the tokenizer and the script.

What a fact holds is text and stays text: "<|im_end|>" in a value never becomes the control token of that name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

# So many tokens of the prompt's end are tokenised again with the sentence, if they come out as they were.
CONTEXT = 8
# Put before a piece to take away the space that some tokenizers begin a text with.
_ANCHORS = ("", "a", "1", ".", "\n")


@dataclass(frozen=True)
class Wording:
    """Tokens and the characters each of them says.

    Args:
        tokens: ids.
        starts, ends: characters [start, end) of the text, for each token. The tokens of one character that takes
            several share them.
    """

    tokens: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def said(self, count: int) -> int:
        """How many characters of the text its first `count` tokens have said in full."""
        if not count:
            return 0
        end = self.ends[count - 1]
        return min(end, self.starts[count]) if count < len(self.starts) else end


class Wordings:
    """Makes wordings with one tokenizer. Not for several threads at once, as a tokenizer is not."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer: Any = tokenizer
        added = getattr(tokenizer, "added_tokens_decoder", {})
        specials = {place: str(token) for place, token in added.items() if getattr(token, "special", True)}
        specials |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=False))
        self.controls = frozenset(specials) - {tokenizer.unk_token_id}
        texts = sorted(set(specials.values()), key=len, reverse=True)
        # One character after the start of each, also of one inside another.
        self._control = re.compile(f"(?=({'|'.join(map(re.escape, texts))}))") if texts else None

    def of(self, text: str, prompt: Sequence[int]) -> Wording | None:
        """The tokens of a text that follows a prompt.

        Args:
            text: what is to be said.
            prompt: token ids; only their end is looked at.

        Returns:
            None if the text cannot be said without a control token.
        """
        # Cut inside every control token's text, so that no piece holds one; usually there is one piece.
        cuts = [] if self._control is None else [match.start() + 1 for match in self._control.finditer(text)]
        if any(cut >= len(text) for cut in cuts):
            return None
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            more, places = self._follow([*prompt[-CONTEXT:], *tokens], text[start:end])
            tokens += more
            spans += [(start + first, start + last) for first, last in places]
        if self.controls.intersection(tokens):
            return None
        return Wording(tuple(tokens), tuple(first for first, _ in spans), tuple(last for _, last in spans))

    def _follow(self, before: list[int], piece: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text after others, and the characters of the text that each says."""
        for length in range(min(CONTEXT, len(before)), 0, -1):
            context = str(self.tokenizer.decode(before[-length:], clean_up_tokenization_spaces=False))
            ids, places = self._encode(context + piece)
            if ids[:length] == before[-length:] and not self.controls.intersection(ids[length:]):
                return ids[length:], _moved(places[length:], len(context))
        # The prompt's end cannot be written again as it was: what can is the text alone, or after some other character.
        best: tuple[list[int], list[tuple[int, int]]] | None = None
        for anchor in _ANCHORS:
            first, _ = self._encode(anchor) if anchor else ([], [])
            ids, places = self._encode(anchor + piece)
            if ids[: len(first)] != first:
                continue
            found = ids[len(first) :], _moved(places[len(first) :], len(anchor))
            best = best or found
            if before and self._joins(before, found[0], piece):
                return found
        assert best is not None  # the empty anchor always gives one
        return best

    def _joins(self, before: list[int], ids: list[int], piece: str) -> bool:
        """Whether the ids, after those before them, read as the piece and no space more."""
        head, whole = (
            str(self.tokenizer.decode(one, clean_up_tokenization_spaces=False)) for one in (before, before + ids)
        )
        return whole == head + piece

    def _encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(encoded["input_ids"]), [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ends = [len(self.tokenizer.decode(ids[:count])) for count in range(len(ids) + 1)]
        return ids, [(min(start, len(text)), min(end, len(text))) for start, end in pairwise(ends)]


def _moved(places: list[tuple[int, int]], by: int) -> list[tuple[int, int]]:
    return [(max(0, start - by), max(0, end - by)) for start, end in places]
