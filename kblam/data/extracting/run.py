"""Asks for the facts of many pieces at once, keeps each answer, and puts the facts together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from kblam.data.at_once import answers
from kblam.data.documents import Piece
from kblam.data.endpoint import ChatClient, Endpoint, RequestFailedError
from kblam.data.extracting.asking import Taken, take
from kblam.data.extracting.journal import Journal, key_of
from kblam.data.extracting.merging import Merged, merge
from kblam.errors import DataServerError
from kblam.knowledge.encoders import Progress

# Of the first pieces, all without a usable reply: the model, or the endpoint, is not one that can do this.
HOPELESS = 5


@dataclass(frozen=True)
class Prices:
    """What tokens cost, in one currency, for a million."""

    prompt: float
    reply: float


@dataclass(frozen=True)
class Extraction:
    """What came of the documents.

    Args:
        merged: the triples.
        pieces: how many there are.
        asked: how many of them were asked about now; the others were in the journal.
        refused: facts that were left out, by reason.
        failed: pieces that gave nothing, as (piece, why); the next run asks again.
        prompt_tokens, reply_tokens: of all pieces, those of the journal too.
        is_counted: whether the server counted all of them.
    """

    merged: Merged
    pieces: int
    asked: int
    refused: Counter[str]
    failed: list[tuple[Piece, str]]
    prompt_tokens: int
    reply_tokens: int
    is_counted: bool

    def cost(self, prices: Prices) -> float:
        """Of all tokens."""
        return (self.prompt_tokens * prices.prompt + self.reply_tokens * prices.reply) / 1e6


def extract(
    pieces: Sequence[Piece],
    endpoint: Endpoint,
    journal: Journal,
    *,
    concurrency: int = 4,
    most_tokens: int | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """The facts of pieces of documents, each with its sources.

    Args:
        pieces: of all documents.
        endpoint: the server and the model.
        journal: what is in it is not asked again; what comes of each other piece is added to it.
        concurrency: requests at a time. Where the server asks for quiet (Retry-After), all of them wait.
        most_tokens: length limit of a reply.
        progress: `progress(done, total)` in pieces.

    Raises:
        DataError, DataServerError, EncoderError: as `ChatClient`; or the first replies are all useless. What was
            extracted before is in the journal.
    """
    keys = [key_of(piece, endpoint.model) for piece in pieces]
    taken: dict[int, Taken] = {at: known for at, key in enumerate(keys) if (known := journal.get(key)) is not None}
    todo = [at for at in range(len(pieces)) if at not in taken]
    failed: dict[int, str] = {}

    def ask(client: ChatClient, at: int) -> Taken:
        return take(client, pieces[at], most_tokens)

    with answers(todo, ask, endpoint, concurrency) as answered:
        for done, (place, answer) in enumerate(answered, start=len(pieces) - len(todo) + 1):
            at = todo[place]
            if isinstance(answer, RequestFailedError):
                answer = Taken(failed=str(answer))
            taken[at] = answer
            if answer.failed is None:
                journal.put(keys[at], answer)
            else:
                failed[at] = answer.failed
                if len(failed) == HOPELESS == done - (len(pieces) - len(todo)):
                    raise DataServerError(
                        f"{endpoint.model} at {endpoint.base_url} gave nothing that can be used for {HOPELESS} pieces; "
                        f"the last one: {answer.failed}{'' if answer.is_cut else '; use a larger model'}"
                    )
            if progress is not None:
                progress(done, len(pieces))
    every = [taken[at] for at in range(len(pieces))]
    return Extraction(
        merge([triple for one in every for triple in one.triples]),
        len(pieces),
        len(todo),
        sum((one.refused for one in every), Counter[str]()),
        [(pieces[at], failed[at]) for at in sorted(failed)],
        sum(one.prompt_tokens for one in every),
        sum(one.reply_tokens for one in every),
        all(one.is_counted for one in every),
    )
