from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from kblam import knowledge
from kblam.errors import (
    EncoderMismatchError,
    EncoderUnavailableError,
    StoreError,
    StoreWriteError,
    TripleFormatError,
)
from kblam.knowledge import KnowledgeBase, Triple
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS


def test_what_is_added_is_there_after_reopening(path: Path, encoder: HashingEncoder) -> None:
    with KnowledgeBase.create(path, encoder) as kb:
        report = kb.add(FACTS)
        assert (report.added, report.updated, report.unchanged) == (4, 0, 0)
    with KnowledgeBase.open(path) as kb:
        assert len(kb) == 4
        assert list(kb.triples()) == FACTS
        assert (kb.dimension, kb.fingerprint, kb.encoder_spec) == (16, encoder.fingerprint, encoder.spec)
        found = kb.embeddings()
        assert kb.triples_at(found.ids) == FACTS
        texts = [triple.key_text for triple in FACTS], [triple.value for triple in FACTS]
        np.testing.assert_array_equal(found.key, encoder.encode(texts[0]).astype(np.float16))
        np.testing.assert_array_equal(found.value, encoder.encode(texts[1]).astype(np.float16))
        assert found.key.dtype == np.float16
        assert found.ids.dtype == np.int64


def test_the_same_identity_is_updated_in_place(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    before = kb.embeddings()
    report = kb.add(Triple(" Amber Falcon ", "capital", "Beryl"))
    assert (report.added, report.updated) == (0, 1)
    after = kb.embeddings()
    np.testing.assert_array_equal(before.ids, after.ids)
    changed = [row for row in range(4) if not np.array_equal(before.value[row], after.value[row])]
    assert [triple.value for triple in kb.triples_at(after.ids[changed])] == ["Beryl"]
    assert [triple.value for triple in kb.find("Amber Falcon")] == ["Beryl", "a land of glass"]


def test_one_or_many_as_triples_or_mappings(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.create(None, encoder)
    kb.add(FACTS[0])
    kb.add({"entity": "E", "description": "d"})
    kb.add(iter([FACTS[1], {"name": "N", "value": "v"}]))
    assert kb.add([]).total == 0
    assert [triple.name for triple in kb.triples()] == ["Amber Falcon", "E", "Amber Falcon", "N"]


def test_adding_is_all_or_nothing(kb: KnowledgeBase) -> None:
    with pytest.raises(TripleFormatError, match="missing field"):
        kb.add([{"entity": "new", "value": "v"}, {"entity": "no value"}])
    assert list(kb.triples()) == FACTS


def test_what_is_added_together_is_one_transaction(kb: KnowledgeBase) -> None:
    """Also where one triple has new words, and another a new example only, which costs no encoding."""
    before, entered = kb.revision, []

    @contextmanager
    def writing() -> Iterator[None]:
        entered.append(kb.revision)
        yield
        entered.append(kb.revision)

    example = dataclasses.replace(FACTS[0], question="who?", answer="you")
    done = kb.add([example, Triple("Zorblax", "motto", "patience")], writing=writing())
    assert (done.added, done.updated) == (1, 1)
    assert entered == [before, before + 1]
    assert kb.add([example], writing=writing()).unchanged == 1
    assert len(entered) == 2, "nothing is written"


def test_of_a_repeated_identity_the_later_stands(kb: KnowledgeBase) -> None:
    report = kb.add([Triple("x", "p", "one"), Triple("x", "p", "two")])
    assert (report.added, report.unchanged) == (1, 1)
    assert [triple.value for triple in kb.find("x")] == ["two"]


def test_only_changed_texts_are_encoded(kb: KnowledgeBase, encoder: HashingEncoder) -> None:
    revision = kb.revision
    assert kb.add(FACTS).unchanged == 4
    assert (encoder.calls, kb.revision) == ([], revision)
    asked = Triple("Zürich", "Fluss", "Limmat", question="Welcher Fluss?", answer="Die Limmat.")
    assert kb.add([asked]).updated == 1
    assert encoder.calls == []
    assert kb.find("Zürich") == [asked]
    # A text that occurs twice in a batch is encoded once.
    kb.add([Triple("a", "p", "same"), Triple("b", "p", "same")])
    assert sorted(encoder.calls) == ["same", "the p of a", "the p of b"]


def test_a_key_string_changes_the_key_alone(kb: KnowledgeBase) -> None:
    before = kb.embeddings()
    kb.add(Triple("Zürich", "Fluss", "Limmat", key_string="der Fluss von Zürich"))
    after = kb.embeddings()
    assert not np.array_equal(before.key[2], after.key[2])
    np.testing.assert_array_equal(before.value, after.value)


def test_remove(kb: KnowledgeBase) -> None:
    assert kb.remove("Amber Falcon", "capital") == 1
    assert kb.remove("Amber Falcon", "capital") == 0
    assert [triple.property for triple in kb.find("Amber Falcon")] == ["description"]
    kb.add(FACTS[0])
    assert kb.remove(" Amber Falcon\n") == 2
    assert len(kb) == len(kb.embeddings()) == 2
    assert kb.remove("nobody") == 0


def test_ids_are_never_used_again(kb: KnowledgeBase) -> None:
    ids = kb.embeddings().ids
    kb.remove("東京タワー")
    kb.add(FACTS[3])
    assert kb.embeddings().ids[-1] > ids[-1]
    with pytest.raises(StoreError, match=f"no triple with id {ids[-1]}"):
        kb.triples_at(ids)


def test_triples_at_keeps_the_order_asked_for(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.from_triples([Triple(f"n{i}", "p", "v") for i in range(1200)], encoder)
    ids = kb.embeddings().ids[::-1]
    assert [triple.name for triple in kb.triples_at(ids)] == [f"n{i}" for i in reversed(range(1200))]
    assert kb.triples_at(np.array([ids[0], ids[0]])) == kb.triples_at([int(ids[0])]) * 2


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("amber", ["Amber Falcon"]),
        ("FALCON amb", ["Amber Falcon"]),
        ("zÜRICH", ["Zürich"]),
        ("zu\u0308r", ["Zürich"]),
        ("タワー", ["東京タワー"]),
        ("ａｍｂｅｒ", ["Amber Falcon"]),
        ("100%", ["100% wool"]),
        ("%", ["100% wool"]),
        ("_", ["under_score"]),
        ('"; DROP TABLE', ['"; DROP TABLE triples; --']),
        ("*", []),
        ("amber OR zürich", []),
        ("  ", []),
        ("", []),
        ("nobody", []),
    ],
)
def test_search(kb: KnowledgeBase, text: str, names: list[str]) -> None:
    kb.add([Triple(name, "p", "v") for name in ("100% wool", "under_score", '"; DROP TABLE triples; --')])
    assert list(dict.fromkeys(triple.name for triple in kb.search(text))) == names


def test_search_puts_the_best_first(encoder: HashingEncoder) -> None:
    names = ["the Beryl cup", "Beryl coast", "a beryl", "Beryl", "Berylium"]
    kb = KnowledgeBase.from_triples([Triple(name, "p", "v") for name in names], encoder)
    order = ["Beryl", "Berylium", "Beryl coast", "a beryl", "the Beryl cup"]
    assert [triple.name for triple in kb.search("beryl")] == order
    assert [triple.name for triple in kb.search("beryl", limit=2)] == order[:2]
    assert kb.search("beryl", limit=0) == []


def test_find_is_exact(kb: KnowledgeBase) -> None:
    assert kb.find("amber falcon") == []
    assert kb.find("Zu\u0308rich ") == [FACTS[2]]


# --- encoders --------------------------------------------------------------------------------------------


def test_another_encoder_is_refused(kb: KnowledgeBase, path: Path, encoder: HashingEncoder) -> None:
    for other in (HashingEncoder(seed=1), HashingEncoder(dimension=8)):
        with pytest.raises(EncoderMismatchError, match=r"built with hashing:0 \(hashing:0:16\), not with"):
            KnowledgeBase.open(path, other)
    assert KnowledgeBase.open(path, HashingEncoder()).encode(["a"]).shape == (1, 16)


def test_an_encoder_that_cannot_be_loaded_hinders_only_encoding(kb: KnowledgeBase, path: Path) -> None:
    again = KnowledgeBase.open(path)
    assert again.remove("Zürich") == 1
    with pytest.raises(EncoderUnavailableError, match="the encoder 'hashing:0', and a file cannot choose"):
        again.add(Triple("a", "b", "c"))


def test_the_recorded_encoder_is_loaded_and_checked(
    kb: KnowledgeBase, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kblam.knowledge import knowledge_base

    found = HashingEncoder()
    monkeypatch.setattr(knowledge_base, "load_recorded_encoder", lambda spec, device: found)
    again = KnowledgeBase.open(path)
    again.add(Triple("a", "b", "c"))
    assert found.calls == ["the b of a", "c"]
    found.seed = 1
    with pytest.raises(EncoderMismatchError, match="built with"):
        KnowledgeBase.open(path).add(Triple("a", "b", "d"))


def test_it_cannot_name_the_server_its_texts_go_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    from kblam.knowledge.store import Store

    Store.create(path, encoder_spec="openai:m#8@http://example.invalid", fingerprint="openai:m:8", dimension=8).close()
    with pytest.raises(EncoderUnavailableError, match="name it yourself"):
        KnowledgeBase.open(path).add(Triple("a", "b", "c"))


# --- using it --------------------------------------------------------------------------------------------


def test_read_only(kb: KnowledgeBase, path: Path, encoder: HashingEncoder) -> None:
    with KnowledgeBase.open(path, encoder, read_only=True) as reader:
        for change in (
            lambda: reader.add(Triple("a", "b", "c")),
            lambda: reader.update([Triple("a", "b", "c")]),
            lambda: reader.remove("Zürich"),
        ):
            with pytest.raises(StoreWriteError, match="opened read-only"):
                change()
        assert encoder.calls == []
        kb.add(Triple("a", "b", "c"))
        assert len(reader) == 5


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_one_is_opened_again_and_not_copied(kb: KnowledgeBase, copied: Callable[[KnowledgeBase], object]) -> None:
    with pytest.raises(StoreError, match=r"cannot be copied or pickled; KnowledgeBase\.open its path"):
        copied(kb)
    in_memory = KnowledgeBase.from_triples(FACTS, HashingEncoder())
    with pytest.raises(StoreError, match="cannot be copied or pickled; copy its triples"):
        copied(in_memory)


def test_a_closed_one_says_so(kb: KnowledgeBase) -> None:
    kb.close()
    kb.close()
    for use in (lambda: len(kb), lambda: kb.remove("a"), lambda: list(kb.triples()), lambda: kb.revision):
        with pytest.raises(StoreError, match=r"facts #1 100%\?\.kb is closed; open it again"):
            use()


def test_an_empty_one(encoder: HashingEncoder) -> None:
    kb = KnowledgeBase.create(None, encoder)
    assert len(kb) == 0
    assert kb
    assert kb.embeddings().key.shape == (0, 16)
    assert list(kb.triples()) == kb.search("a") == kb.triples_at([]) == []
    assert kb.revision == 0


def test_threads_may_share_it(kb: KnowledgeBase) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(20):
                kb.add(Triple(f"n{number}", f"p{step}", "v"))
                assert len(kb.find(f"n{number}")) == step + 1
                kb.embeddings()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert len(kb) == 84


def test_importing_it_loads_nothing_heavy() -> None:
    code = (
        "import sys, kblam.knowledge as k; assert k.KnowledgeBase and k.build;"
        "found = {'torch', 'transformers', 'sentence_transformers', 'httpx'} & set(sys.modules);"
        "assert not found, found"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_there() -> None:
    assert all(getattr(knowledge, name) is not None for name in knowledge.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = knowledge.Nothing  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["file", "memory"])
def test_a_copy_is_of_one_moment_and_counts_for_itself(where: str, tmp_path: Path, encoder: HashingEncoder) -> None:
    made = KnowledgeBase.create(tmp_path / "a.kb" if where == "file" else None, encoder)
    with made as kb:
        kb.add([Triple(f"n{number}", "p", "value 0") for number in range(50)])
        ended = threading.Event()

        def change() -> None:
            try:
                for round_ in range(1, 40):
                    kb.add([Triple(f"n{number}", "p", f"value {round_}") for number in range(0, 50, 7)])
            finally:
                ended.set()

        writer = threading.Thread(target=change)
        writer.start()
        copies = []
        while not ended.is_set() and len(copies) < 8:
            copies.append(tmp_path / f"copy{len(copies)}.kb")
            kb.copy_to(copies[-1])
        writer.join()
        with pytest.raises(StoreError, match=r"copy0\.kb is there already; choose another place for the copy"):
            kb.copy_to(copies[0])
        revision = kb.revision
        for copied in copies:
            with KnowledgeBase.open(copied, encoder) as copy_:
                copy_.check()
                triples, vectors = list(copy_.triples()), copy_.embeddings()
                values = HashingEncoder().encode([triple.value for triple in triples])
                np.testing.assert_array_equal(vectors.value, values.astype(np.float16))
                assert len({triple.value for triple in triples[::7]}) == 1
                assert copy_._store.info.store_id != kb._store.info.store_id
                copy_.add(Triple("another", "p", "v"))
        assert kb.revision == revision


def test_a_copy_that_cannot_be_written_leaves_nothing(kb: KnowledgeBase, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    before = sorted(tmp_path.iterdir())
    for place in ("nowhere/copy.kb", "file/copy.kb"):
        with pytest.raises(StoreError):
            kb.copy_to(tmp_path / place)
    assert sorted(tmp_path.iterdir()) == before


def test_what_was_encoded_ahead_a_piece_at_a_time_is_added_as_it_is_at_once(encoder: HashingEncoder) -> None:
    many = [Triple(f"name {at}", "kind", f"value {at}") for at in range(150)]
    kb, whole = (KnowledgeBase.from_triples([*FACTS, many[0]], encoder) for _ in range(2))
    whole.add(many)
    encoder.calls.clear()
    steps, sizes = kb.encode_ahead(many), list[int]()
    while True:
        before = len(encoder.calls)
        try:
            next(steps)
        except StopIteration as end:
            remembered = end.value
            break
        sizes.append(len(encoder.calls) - before)
    assert sizes == [126, 128]  # the first triple is there already, and the last ones are left to `add`
    assert len(kb) == 5
    done = kb.add(many, remembered=remembered)
    assert (done.added, done.unchanged) == (149, 1)
    assert len(encoder.calls) == len(set(encoder.calls)) == 2 * 149
    for name in ("key", "value", "ids"):
        np.testing.assert_array_equal(getattr(kb.embeddings(), name), getattr(whole.embeddings(), name))


def test_nothing_is_encoded_ahead_for_a_file_that_is_only_read(path: Path, encoder: HashingEncoder) -> None:
    KnowledgeBase.create(path, encoder).close()
    with KnowledgeBase.open(path, encoder, read_only=True) as kb:
        encoder.calls.clear()
        with pytest.raises(StoreWriteError, match="read-only"):
            next(kb.encode_ahead(FACTS * 40))
        assert not encoder.calls
