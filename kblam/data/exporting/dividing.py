"""Which split a question goes to: things that a question puts together go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b

from kblam.data.exporting.questions import QuestionAnswer


def divided(
    questions: Iterable[QuestionAnswer], splits: Mapping[str, float], seed: int
) -> Iterator[tuple[str, QuestionAnswer]]:
    """Each question with the name of its split, in the order given; with several splits all are held in memory.

    The largest sets of things that questions put together come first, each to the split that lacks most. Things that
    stand alone fill what is left by a hash of their name, so that without such sets more questions move nothing.

    Args:
        splits: name -> share.
        seed: another one divides otherwise.
    """
    if len(splits) == 1:
        yield from ((name, one) for name in splits for one in questions)
        return
    every = list(questions)
    together = _together([one.things for one in every])
    sizes = Counter(together[one.things[0]] for one in every)
    alone = {thing for thing, count in Counter(together.values()).items() if count == 1}
    lacking = {name: share * len(every) for name, share in splits.items()}
    split_of: dict[str, str] = {}
    for thing in sorted(sizes.keys() - alone, key=lambda thing: (-sizes[thing], _place(thing, seed))):
        split_of[thing] = max(filter(splits.__getitem__, splits), key=lacking.__getitem__)  # none to a share of 0
        lacking[split_of[thing]] -= sizes[thing]
    left = {name: max(0.0, count) for name, count in lacking.items()}
    shares = {name: count / sum(left.values()) for name, count in left.items()} if any(left.values()) else splits
    for one in every:
        thing = together[one.things[0]]
        yield split_of.get(thing) or _split_at(_place(thing, seed), shares), one


def _together(asked: Iterable[Sequence[str]]) -> dict[str, str]:
    """Thing -> the first by name of those that questions put together with it, directly or over others."""
    leads: dict[str, str] = {}

    def lead(thing: str) -> str:
        leads.setdefault(thing, thing)
        while leads[thing] != thing:
            leads[thing] = thing = leads[leads[thing]]
        return thing

    for things in asked:
        leaders = {lead(thing) for thing in things}
        first = min(leaders)
        for one in leaders:
            leads[one] = first
    return {thing: lead(thing) for thing in list(leads)}


def _place(thing: str, seed: int) -> float:
    """From 0 to 1."""
    return int.from_bytes(blake2b(f"{seed} {thing}".encode(), digest_size=8).digest(), "big") / 2**64


def _split_at(place: float, shares: Mapping[str, float]) -> str:
    passed = 0.0
    for name, share in shares.items():
        passed += share
        if place < passed:
            return name
    return max(shares, key=shares.__getitem__)  # where rounding left the sum below 1
