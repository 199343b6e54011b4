"""A knowledge base against a dict: any sequence of operations, with a file that is closed and opened again."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from kblam.knowledge import KnowledgeBase, Triple
from tests.fakes import HashingEncoder
from tests.knowledge import strategies
from tests.knowledge.vectors import copy_of

few_names = st.sampled_from(["a", "A", "é", "e\u0301", "b%", "b_", "名前", 'x"; --'])
few_properties = st.sampled_from(["p", "q"])


class KnowledgeBaseAgainstADict(RuleBasedStateMachine):
    triples = Bundle("triples")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="kblam-test-", dir=_memory())
        self.path = Path(self.folder.name) / "a.kb"
        self.encoder = HashingEncoder(4)
        self.kb = KnowledgeBase.create(self.path, self.encoder)
        self.copy = copy_of(self.kb)
        self.model: dict[tuple[str, str], Triple] = {}

    @rule(
        target=triples,
        triple=strategies.triples | st.builds(Triple, few_names, few_properties, st.sampled_from("xyz")),
    )
    def make(self, triple: Triple) -> Triple:
        return triple

    @rule(added=st.lists(triples, max_size=4))
    def add(self, added: list[Triple]) -> None:
        before = dict(self.model)
        self.model.update({triple.identity: triple for triple in added})
        report = self.kb.add(added)
        assert report.added == len(self.model) - len(before)
        assert report.updated == sum(self.model[identity] != old for identity, old in before.items())
        assert report.total == len(added)

    @rule(triple=consumes(triples), whole=st.booleans())
    def remove(self, triple: Triple, whole: bool) -> None:
        gone = [key for key in self.model if key[0] == triple.name and (whole or key[1] == triple.property)]
        assert self.kb.remove(triple.name, None if whole else triple.property) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(triple=triples)
    def look(self, triple: Triple) -> None:
        expected = [held for key, held in self.model.items() if key[0] == triple.name]
        assert sorted(self.kb.find(triple.name), key=repr) == sorted(expected, key=repr)
        assert set(expected) <= set(self.kb.search(triple.name, limit=1000))

    @rule()
    def reopen(self) -> None:
        self.kb.close()
        self.kb = KnowledgeBase.open(self.path, self.encoder)

    @rule()
    def sync(self) -> None:
        self.copy.sync(self.kb)
        held = self.kb.triples_at(self.copy.ids)
        assert {triple.identity: triple for triple in held} == self.model
        expected = self.encoder.encode([triple.value for triple in held]).astype(np.float16)
        np.testing.assert_array_equal(self.copy.buffers["value"][: self.copy.count].numpy(), expected)

    @invariant()
    def agrees(self) -> None:
        assert len(self.kb) == len(self.model)
        assert {triple.identity: triple for triple in self.kb.triples()} == self.model

    def teardown(self) -> None:
        self.kb.close()
        self.folder.cleanup()


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


TestKnowledgeBaseAgainstADict = KnowledgeBaseAgainstADict.TestCase
TestKnowledgeBaseAgainstADict.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
