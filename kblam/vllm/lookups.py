"""Questions that are looked up before they are answered, and answers that are read for their evidence.

Each by requests of one token, which no client sees.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any
from uuid import uuid4

from vllm import SamplingParams
from vllm.v1.request import Request

from kblam.vllm.deciding import Question
from kblam.vllm.salts import plain_salt

Found = Sequence[tuple[int, float]]


@dataclass
class Lookup:
    """A question in the engine.

    Args:
        question: that is looked up.
        askers: the requests that wait for it, held back until then.
        texts: of each lookup request, by its id.
        said: the answer, once it is foregone and only read for its evidence; None before.
        found: by text, what it found: ids of triples and masses, the largest first, or those of all tokens of an answer
            that is read.
        prefill: vLLM's statistics of the question's prompt.
        begun: when it was, in seconds, as vLLM counts them for its statistics.
    """

    question: Question
    askers: list[Request]
    texts: dict[str, str]
    said: list[int] | None = None
    found: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    prefill: Any = None
    begun: float = field(default_factory=time.monotonic)
    _open: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._open = set(self.texts)

    def close(self, request_id: str) -> bool:
        """One of its requests has ended; returns whether all have."""
        self._open.discard(request_id)
        return not self._open

    @property
    def unfinished(self) -> list[str]:
        """Ids of its requests that still run."""
        return [request_id for request_id in self.texts if request_id in self._open]


class Lookups:
    """Of one scheduler."""

    def __init__(self) -> None:
        self._by_request: dict[str, Lookup] = {}
        self._by_question: dict[object, Lookup] = {}
        self._finished: list[Lookup] = []

    def join(self, request: Request, question: Question) -> bool:
        """Has a request wait for a lookup of the same question that is on its way; False if there is none."""
        found = self._by_question.get(_key(request, question))
        if found is not None:
            found.askers.append(request)
        return found is not None

    def begin(self, request: Request, question: Question, texts: dict[str, str]) -> None:
        """Has a request wait for a lookup of its own.

        Args:
            request: that asks.
            question: of it.
            texts: what is looked up, by the id of the request that does so.
        """
        lookup = Lookup(question, [request], texts)
        self._by_question[_key(request, question)] = lookup
        self._by_request |= dict.fromkeys(texts, lookup)

    def read(self, request: Request, lookup: Lookup, said: list[int], reader: str) -> None:
        """Has a request wait until its answer is read.

        Args:
            request: that asked.
            lookup: of its question.
            said: the tokens of its answer.
            reader: id of the request that reads them.
        """
        texts = {reader: lookup.question.text}
        self._by_request[reader] = Lookup(
            lookup.question, [request], texts, said, prefill=lookup.prefill, begun=lookup.begun
        )

    def __contains__(self, request_id: object) -> bool:
        """Whether a request is one that looks something up."""
        return request_id in self._by_request

    def note(self, request_id: str, found: Found) -> None:
        """What a request found in a step; of any other request nothing is kept."""
        lookup = self._by_request.get(request_id)
        if lookup is not None:
            lookup.found.setdefault(lookup.texts[request_id], []).extend(found)

    def measured(self, request_id: str, prefill: Any) -> None:
        """vLLM's statistics of the request that reads a question as a whole; of any other nothing is kept."""
        lookup = self._by_request.get(request_id)
        if lookup is not None and lookup.said is None and lookup.texts[request_id] == lookup.question.text:
            lookup.prefill = prefill

    def ended(self, request_id: str) -> None:
        """A request has ended."""
        lookup = self._by_request.get(request_id)
        if lookup is not None and lookup.close(request_id) and lookup.askers:
            self._finished.append(lookup)

    def finished(self) -> list[Lookup]:
        """Those whose requests have all ended, once."""
        done, self._finished = self._finished, []
        for lookup in done:
            self._forget(lookup)
        return done

    def drop(self, request_ids: Iterable[str] | None) -> tuple[list[Request], list[str]]:
        """Requests do not wait any more, None: all; returns them, and the lookup requests that nobody waits for now."""
        wanted = None if request_ids is None else set(request_ids)
        dropped: list[Request] = []
        idle: list[str] = []
        for lookup in {id(one): one for one in self._by_request.values()}.values():
            gone = [one for one in lookup.askers if wanted is None or one.request_id in wanted]
            lookup.askers = [one for one in lookup.askers if one not in gone]
            dropped += gone
            if not lookup.askers:
                idle += lookup.unfinished
                self._forget(lookup)
        return dropped, idle

    def _forget(self, lookup: Lookup) -> None:
        self._by_question = {key: one for key, one in self._by_question.items() if one is not lookup}
        for request_id in lookup.texts:
            self._by_request.pop(request_id, None)


def lookup_request(asker: Request, name: int | str, prompt: list[int], blocks: int | None = None) -> Any:
    """A request that ends after one token, with the rights of the one that asks.

    Args:
        asker: that asks.
        name: of the request, beside the asker's.
        prompt: token ids.
        blocks: so many blocks of the prompt may come from the prefix cache, where they are; None for all.
    """
    hasher = asker._block_hasher
    return Request(
        f"{asker.request_id}?{name}",
        prompt,
        SamplingParams(temperature=0, max_tokens=1),
        None,
        client_index=asker.client_index,
        arrival_time=asker.arrival_time,
        cache_salt=asker.cache_salt,
        priority=asker.priority,
        block_hasher=hasher if hasher is None or blocks is None else _read_anew(hasher, blocks),
    )


def as_base_request(asker: Request, prompt: list[int], params: SamplingParams) -> Request:
    """A request under the same id, with another prompt."""
    return Request(
        asker.request_id,
        prompt,
        params,
        None,
        client_index=asker.client_index,
        arrival_time=asker.arrival_time,
        cache_salt=plain_salt(asker.cache_salt),
        priority=asker.priority,
        trace_headers=asker.trace_headers,
        block_hasher=asker._block_hasher,
    )


def _read_anew(hasher: Callable[[Request], list[Any]], blocks: int) -> Callable[[Request], list[Any]]:
    """Hashes of a request's blocks, from the given one on such as no other request has.

    A token's evidence is seen when the token is read, so that of one which the cache has would be missing.
    """
    own = uuid4().bytes

    def hashes(request: Request) -> list[Any]:
        first = len(request.block_hashes)
        return [
            one if at < blocks else blake2b(one + own, digest_size=len(one)).digest()
            for at, one in enumerate(hasher(request), first)
        ]

    return hashes


def _key(request: Request, question: Question) -> object:
    rules = question.rules
    same = question.text, tuple(question.prompt), question.loaded.generation, question.end
    return *same, rules.unknown, rules.known_above, request.cache_salt
