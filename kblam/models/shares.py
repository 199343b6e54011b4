"""What the shares of properties say of a question: which one it asks for, and whether its entity has that."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kblam.adapter.property_head import DESCRIBING, EVERYTHING
from kblam.knowledge.identifiers import forms
from kblam.knowledge.mention import says, words
from kblam.models.compared import Compared

# Beside the shares of what an entity lacks: that of all which neither its knowledge base nor the background has.
_ELSE = 0.02

Named = tuple[int, str]  # a question of a batch, and a name that it says


class Share(NamedTuple):
    """Of a property that a question without a name may ask for.

    Args:
        log: of what the property's share is of itself and the shares of what the entity lacks; to a describing one's
            that of everything is added.
        is_best: whether no other property of the knowledge base has a larger one.
        everything: the share of everything, with that of a description which the entity lacks.
        is_beaten: whether another one has the largest of all, and the question says that.
    """

    log: float = 0.0
    is_best: bool = False
    everything: float = 0.0
    is_beaten: bool = False


class Shares(NamedTuple):
    """The shares of a batch of questions, each of which is read without one of the names it says.

    Args:
        compared: what all of them are compared with.
        more: properties that only some are compared with besides.
        logs: (questions, columns of `compared` and `more`) float32, -inf where a question is not compared with one.
        said: the same shape, of how many words each property is that a question says.
    """

    compared: Compared
    more: Sequence[str]
    logs: Tensor
    said: Tensor

    def of(self, asked: Mapping[Named, Sequence[str]], texts: Sequence[str]) -> dict[tuple[int, str, str], Share]:
        """By question, name and property.

        Args:
            asked: by question and name, in the order of the rows, the properties that the name's entity has.
            texts: the questions without the names.
        """
        compared, logs, more = self.compared, self.logs, len(self.more)
        best = logs.masked_fill(~_extended(compared.own, more, True), -torch.inf).amax(-1)
        rivals = _extended(compared.rivalry, more, 0.0) * logs.exp()
        # Who says a property does not ask for everything, whatever it sounds like ("further explanation").
        is_everything = torch.tensor(compared.columns[EVERYTHING], device="cpu")
        most_said = self.said.index_fill(1, is_everything, 0.0).amax(-1)
        shares: dict[tuple[int, str, str], Share] = {}
        for line, ((row, name), props) in enumerate(asked.items()):
            everything, said_words = self._everything(line, props), self._likeliest_said(line, texts[line])
            columns = {prop: self._column(prop) for prop in props}
            rivals[line, list(columns.values())] = 0.0
            against = float(rivals[line].sum()) + _ELSE
            for prop, column in columns.items():
                log = logs[line, column]
                if is_one_of(prop, DESCRIBING) and not most_said[line]:
                    log = torch.logaddexp(log, everything)
                mine = (words(form) for called in compared.called(prop) for form in forms(called))
                shares[row, name, prop] = Share(
                    log=float(log) - math.log(float(log.exp()) + against),
                    is_best=bool(log >= best[line]),
                    # One word may be said by chance, as in "Open the file on it".
                    everything=0.0 if most_said[line] > 1 else float(everything.exp()),
                    is_beaten=bool(said_words) and not any(form in said_words for form in mine),
                )
        return shares

    def _column(self, prop: str) -> int:
        known = self.compared.columns.get(prop)
        return len(self.compared.vectors) + self.more.index(prop) if known is None else known

    def _everything(self, line: int, props: Sequence[str]) -> Tensor:
        """Who asks for a description that this entity lacks, and does not say so, asks for everything."""
        has = {" ".join(words(form)) for prop in props for form in forms(prop)}
        describing = self.compared.describing.items()
        lacking = [at for at, one in describing if one not in has and not self.said[line, at]]
        return self.logs[line, [self.compared.columns[EVERYTHING], *lacking]].logsumexp(-1)

    def _likeliest_said(self, line: int, text: str) -> list[list[str]]:
        """The words of all forms of the property with the largest share, if the text says one of them."""
        at, count = int(self.logs[line].argmax()), len(self.compared.vectors)
        spellings = self.compared.shown[at] if at < count else (self.more[at - count],)
        likeliest = [form for one in spellings for called in self.compared.called(one) for form in forms(called)]
        return [words(form) for form in likeliest] if any(says(text, one) for one in likeliest) else []


def is_one_of(prop: str, properties: Collection[str]) -> bool:
    """Whether a property is one of these, in any case and as a column's name too."""
    return any(" ".join(words(form)) in properties for form in forms(prop))


def _extended(row: Tensor, count: int, fill: float) -> Tensor:
    return torch.cat([row, torch.full((count,), fill, dtype=row.dtype, device="cpu")])
