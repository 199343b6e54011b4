"""Files that were damaged, made to hurt, moved or copied: what is read is right, or refused."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from kblam.errors import StoreError, StoreFormatError, StoreReplacedError
from kblam.knowledge import KnowledgeBase, Source, Triple
from kblam.knowledge import ledger as ledgers
from kblam.knowledge.ledger import checksum_of_vectors
from kblam.knowledge.proof import columns_of_texts
from kblam.knowledge.schema import FORMAT_VERSION, PAGE_SIZE
from tests.fakes import HashingEncoder
from tests.knowledge.conftest import FACTS
from tests.knowledge.vectors import copy_of

MANY = [Triple(f"name {i} é", ["color", "motto"][i % 2], f"value {i} " + "word " * (i % 9)) for i in range(300)]
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"


def change(path: Path, *statements: str) -> None:
    """Changes a file behind kblam's back."""
    other = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        other.execute(statement)
    other.close()


def as_format_1(path: Path) -> None:
    """What a release before the ledger wrote."""
    as_format_2(path)
    change(path, "DROP TABLE checksums", "DROP TABLE ledger", "PRAGMA user_version = 1")


def as_format_2(path: Path) -> None:
    """What a release before sources wrote."""
    change(path, "DROP TABLE sources", "PRAGMA user_version = 2")


READS: dict[str, Callable[[KnowledgeBase], object]] = {
    "len": len,
    "triples": lambda kb: list(kb.triples()),
    "embeddings": lambda kb: (lambda all: (all.ids.tolist(), all.key.tobytes(), all.value.tobytes()))(kb.embeddings()),
    "changes": lambda kb: (lambda all: (all.upserted.key.tobytes(), all.removed.tolist()))(kb.changes_since(0)),
    "later changes": lambda kb: kb.changes_since(1).removed.tolist(),
    "search": lambda kb: kb.search("name 29"),
    "find": lambda kb: kb.find("name 101 é"),
    "at": lambda kb: kb.triples_at([101, 250]),
}


def look(path: Path) -> dict[str, object]:
    """What each read gives, or "refused"."""
    try:
        kb = KnowledgeBase.open(path, read_only=True)
    except StoreError:
        return dict.fromkeys(READS, "refused")
    seen: dict[str, object] = {}
    with kb:
        for name, read in READS.items():
            try:
                seen[name] = read(kb)
            except StoreError:
                seen[name] = "refused"
    return seen


def flip(raw: bytearray, rng: random.Random) -> None:
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)


def overwrite(raw: bytearray, rng: random.Random) -> None:
    at, size = rng.randrange(len(raw)), rng.choice([4, 64, 512])
    raw[at : at + size] = rng.randbytes(len(raw[at : at + size]))


def swap(raw: bytearray, rng: random.Random) -> None:
    i, j = (page * PAGE_SIZE for page in rng.sample(range(1, len(raw) // PAGE_SIZE), 2))
    raw[i : i + PAGE_SIZE], raw[j : j + PAGE_SIZE] = raw[j : j + PAGE_SIZE], raw[i : i + PAGE_SIZE]


def double(raw: bytearray, rng: random.Random) -> None:
    i, j = (page * PAGE_SIZE for page in rng.sample(range(1, len(raw) // PAGE_SIZE), 2))
    raw[i : i + PAGE_SIZE] = raw[j : j + PAGE_SIZE]


@pytest.mark.parametrize("damage", [flip, overwrite, swap, double])
@pytest.mark.timeout(120)
def test_no_damage_is_read_as_data(memory_folder: Path, damage: Callable[[bytearray, random.Random], None]) -> None:
    good, bad = memory_folder / "good.kb", memory_folder / "bad.kb"
    with KnowledgeBase.create(good, HashingEncoder(64)) as kb:
        kb.add(MANY)
        for number in range(0, 40, 2):
            kb.remove(f"name {number} é")
    right, raw, rng = look(good), good.read_bytes(), random.Random(5)
    assert "refused" not in right.values()
    refused = 0
    for _ in range(60):
        damaged = bytearray(raw)
        damage(damaged, rng)
        bad.write_bytes(damaged)
        seen = look(bad)
        wrong = [name for name in READS if seen[name] not in (right[name], "refused")]
        assert not wrong
        refused += "refused" in seen.values()
    assert refused > 5


CHANGED = [
    pytest.param([f"CREATE VIEW more AS {ENDLESS} SELECT x FROM c"], "view 'more'", id="a-view"),
    pytest.param(
        ["ALTER TABLE store RENAME TO other", f"CREATE VIEW store AS {ENDLESS} SELECT sum(x) revision FROM c"],
        "is not as kblam makes it",
        id="an-endless-view",
    ),
    pytest.param(
        ["CREATE TRIGGER undo AFTER DELETE ON triples BEGIN INSERT INTO triples SELECT OLD.*; END"],
        "trigger 'undo'",
        id="a-trigger",
    ),
    pytest.param(["DROP INDEX triples_by_revision"], "index 'triples_by_revision'", id="no-index"),
    pytest.param(["ALTER TABLE embeddings ADD COLUMN x DEFAULT 1"], "table 'embeddings'", id="another-column"),
    pytest.param(["UPDATE store SET dimension = 2147483648"], "says that a vector has", id="dimension"),
    pytest.param(["UPDATE store SET dimension = 1.5"], "a number of its description", id="half-a-dimension"),
    pytest.param(["UPDATE store SET revision = 'abc'"], "a number of its description", id="revision"),
    pytest.param(["UPDATE store SET revision = 9"], "the checksum of its description", id="another-revision"),
    pytest.param(["UPDATE store SET store_id = x'00'"], "a text of its description", id="store-id"),
    pytest.param(["UPDATE store SET fingerprint = 'another'"], "the checksum of its description", id="fingerprint"),
    pytest.param(["UPDATE ledger SET triples = 10000000000"], "the checksum of its description", id="count"),
]


@pytest.mark.parametrize(("statements", "message"), CHANGED)
@pytest.mark.timeout(60)
def test_a_file_that_describes_itself_otherwise_is_refused_when_it_is_opened(
    kb: KnowledgeBase, path: Path, statements: list[str], message: str
) -> None:
    kb.close()
    change(path, *statements)
    for read_only in (True, False):
        with pytest.raises(StoreFormatError, match=message):
            KnowledgeBase.open(path, read_only=read_only)


ROWS = [
    pytest.param("UPDATE triples SET name = 7 WHERE id = 3", id="a-number-for-a-name"),
    pytest.param("UPDATE triples SET value = '' WHERE id = 3", id="an-empty-value"),
    pytest.param("UPDATE triples SET value = CAST(x'ff' AS TEXT) WHERE id = 3", id="no-utf-8"),
    pytest.param("UPDATE triples SET folded = 'zirconia' WHERE id = 3", id="another-name-to-search-for"),
    pytest.param("UPDATE triples SET id = 9223372036854775807 WHERE id = 3", id="the-largest-id"),
    pytest.param("UPDATE triples SET revision = 9 WHERE id = 3", id="a-revision-to-come"),
    pytest.param("DELETE FROM triples WHERE id = 3", id="a-row-less"),
    pytest.param("INSERT INTO removed VALUES (3, 1)", id="removed-and-there"),
    pytest.param("UPDATE checksums SET texts = 1 WHERE id = 3", id="another-checksum"),
    pytest.param("UPDATE sqlite_sequence SET seq = 1", id="ids-to-be-given-again"),
    pytest.param("UPDATE sqlite_sequence SET seq = 9223372036854775807", id="no-ids-left"),
    pytest.param("UPDATE sqlite_sequence SET seq = 'many'", id="ids-in-words"),
]


@pytest.mark.parametrize("statement", ROWS)
def test_texts_are_proven_before_they_are_looked_up(kb: KnowledgeBase, path: Path, statement: str) -> None:
    kb.close()
    change(path, statement)
    with KnowledgeBase.open(path, HashingEncoder()) as opened:
        for use in (
            lambda: opened.search("amber"),
            lambda: opened.find("Amber Falcon"),
            lambda: opened.changes_since(1) if opened.revision else None,
            lambda: opened.add(Triple("a", "p", "v")),
            lambda: opened.remove("Amber Falcon"),
            opened.check,
        ):
            with pytest.raises(StoreFormatError, match=r"damaged|SQLite reports"):
                use()


def rewrite(path: Path, id: int, column: str, text: str | bytes) -> None:
    """Puts a text in place of another, with right checksums everywhere."""
    other = sqlite3.connect(path)
    other.execute(f"UPDATE triples SET {column} = ? WHERE id = ?", (text, id))
    ledger = ledgers.read("", other)
    *row, sources, before = other.execute(
        f"SELECT {columns_of_texts(ledger)} FROM triples WHERE id = ?", (id,)
    ).fetchone()
    now = ledgers.checksum_of_texts(row, sources)
    other.execute("UPDATE checksums SET texts = ? WHERE id = ?", (now, id))
    ledger.texts_sum += now - before
    ledgers.write(other, ledger)
    other.commit()
    other.close()


def test_a_triple_that_cannot_be_is_refused_by_who_reads_it_even_with_a_right_checksum(
    kb: KnowledgeBase, path: Path
) -> None:
    kb.close()
    rewrite(path, 3, "value", " Limmat ")
    with KnowledgeBase.open(path, HashingEncoder()) as opened:
        assert opened.find("Amber Falcon") == FACTS[:2]
        for use in (lambda: opened.find("Zürich"), lambda: list(opened.triples()), opened.check):
            with pytest.raises(StoreFormatError, match="triple 3 is not in the form that kblam stores"):
                use()


def test_a_name_that_is_no_text_is_refused_even_with_a_right_checksum(kb: KnowledgeBase, path: Path) -> None:
    kb.close()
    rewrite(path, 2, "name", b"abc")
    with KnowledgeBase.open(path, HashingEncoder()) as opened:
        for use in (opened.names, opened.properties):
            with pytest.raises(StoreFormatError, match="triple 2 is not in the form that kblam stores"):
                use()


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused_even_with_a_right_checksum(
    kb: KnowledgeBase, path: Path, number: float
) -> None:
    bad = np.zeros(16, "<f2")
    bad[7] = number
    other = sqlite3.connect(path)
    (value,) = other.execute("SELECT value FROM embeddings WHERE id = 2").fetchone()
    other.execute("UPDATE embeddings SET key = ? WHERE id = 2", (bad.tobytes(),))
    other.execute("UPDATE checksums SET vectors = ? WHERE id = 2", (checksum_of_vectors(2, bad.tobytes(), value),))
    other.commit()
    other.close()
    with pytest.raises(StoreFormatError, match="vectors near id 1 hold NaN or infinity"):
        kb.embeddings()


# --- format 1 --------------------------------------------------------------------------------------------


def test_a_file_of_format_1_is_read_as_it_is_and_brought_up_when_it_is_written(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder
) -> None:
    kb.remove("Zürich")
    expected, vectors, revision, who = list(kb.triples()), kb.embeddings(), kb.revision, kb.store_id
    kb.close()
    as_format_1(path)
    before = path.read_bytes()
    with KnowledgeBase.open(path, read_only=True) as old:
        assert (list(old.triples()), len(old), old.revision) == (expected, 3, revision)
        assert old.search("amber")[0] == expected[0]
        assert old.embeddings().key.tobytes() == vectors.key.tobytes()
        assert old.changes_since(0).removed.tolist() == [3]
        old.check()
    assert path.read_bytes() == before
    with KnowledgeBase.open(path, encoder) as new:
        assert (list(new.triples()), new.revision, new.store_id) == (expected, revision, who)
        new.check()
        new.add(Triple("Amber Falcon", "capital", "Beryl"))
        new.check()
    change(path, "UPDATE embeddings SET key = zeroblob(32) WHERE id = 2")
    with KnowledgeBase.open(path) as new, pytest.raises(StoreFormatError, match="have a wrong checksum"):
        new.embeddings()
    other = sqlite3.connect(path)
    assert other.execute("PRAGMA user_version").fetchone()[0] == FORMAT_VERSION
    other.close()


def test_a_file_of_format_2_is_read_as_it_is_and_gets_sources_when_it_is_written(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder
) -> None:
    expected = list(kb.triples())
    kb.close()
    as_format_2(path)
    before = path.read_bytes()
    with KnowledgeBase.open(path, read_only=True) as old:
        assert (list(old.triples()), old.search("amber")[0]) == (expected, expected[0])
        old.check()
        assert path.read_bytes() == before
        # Another process brings it up and writes sources, while this one has it open.
        with KnowledgeBase.open(path, encoder) as new:
            assert list(new.triples()) == expected
            told = Triple("Amber Falcon", "capital", "Beryl", sources=(Source("a.md", "its capital, Beryl", 2, 40),))
            new.add(told)
            new.check()
            assert told in new.find("Amber Falcon")
        assert told in old.find("Amber Falcon")
        old.check()
    change(path, "UPDATE sources SET sources = replace(sources, 'a.md', 'b.md')")
    with KnowledgeBase.open(path) as new, pytest.raises(StoreFormatError, match="have a wrong checksum"):
        new.find("Amber Falcon")


def test_sources_follow_their_triple(kb: KnowledgeBase, path: Path) -> None:
    first, second = Source("a.md", "one", offset=0), Source("b.pdf", "two", 3)
    told = Triple("Elm", "use", "wheels", sources=(first, second, first))
    assert kb.add(told).added == 1
    assert kb.find("Elm")[0].sources == (first, second)
    revision = kb.revision
    assert kb.add(told).unchanged == 1
    assert kb.revision == revision
    vectors = kb.embeddings().key.tobytes()
    assert kb.add(Triple("Elm", "use", "wheels", sources=(second,))).updated == 1
    assert (kb.find("Elm")[0].sources, kb.embeddings().key.tobytes()) == ((second,), vectors)
    kb.add(Triple("Elm", "use", "hubs"))
    assert kb.find("Elm")[0].sources == ()
    kb.add(told)
    kb.remove("Elm")
    kb.check()
    kb.close()
    change(path, """INSERT INTO sources VALUES (99, '[{"document":"a","quote":"b"}]')""")
    with KnowledgeBase.open(path) as opened, pytest.raises(StoreFormatError, match="a triple 99 that is not there"):
        opened.check()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE embeddings SET key = zeroblob(8) WHERE id = 2",
        "DELETE FROM embeddings WHERE id = 2",
        "UPDATE triples SET name = x'07' WHERE id = 3",
        "UPDATE triples SET value = ' x' WHERE id = 3",
    ],
)
def test_a_damaged_file_of_format_1_stays_as_it_is(kb: KnowledgeBase, path: Path, statement: str) -> None:
    kb.close()
    as_format_1(path)
    change(path, statement)
    before = path.read_bytes()
    with pytest.raises(StoreFormatError, match="damaged"):
        KnowledgeBase.open(path)
    assert path.read_bytes() == before


# --- files that move -------------------------------------------------------------------------------------


def test_a_change_is_never_told_as_done_in_a_file_that_is_gone(kb: KnowledgeBase, path: Path) -> None:
    path.unlink()
    for use in (lambda: kb.add(Triple("a", "p", "v")), lambda: len(kb), lambda: kb.remove("Zürich")):
        with pytest.raises(StoreReplacedError, match="was removed, or replaced by another file, after it was opened"):
            use()


def test_a_file_moved_over_an_open_one_is_not_mixed_with_its_log(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    new = path.with_name("new.kb")
    with KnowledgeBase.create(new, encoder) as made:
        made.add(Triple("new", "p", "v"))
    assert path.with_name(path.name + "-wal").stat().st_size > 0  # of the old one
    new.replace(path)
    with pytest.raises(StoreReplacedError, match="replaced by another file"):
        kb.add(Triple("late", "p", "v"))
    with KnowledgeBase.open(path, encoder) as opened:
        assert [triple.name for triple in opened.triples()] == ["new"]
        opened.add(Triple("newer", "p", "v"))
        kb.close()
        opened.add(Triple("newest", "p", "v"))
    assert "is the log of another knowledge base" in caplog.text
    with KnowledgeBase.open(path) as opened:
        assert [triple.name for triple in opened.triples()] == ["new", "newer", "newest"]
        opened.check()


def test_a_log_is_found_through_a_link(kb: KnowledgeBase, path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (path.name, path.name + "-wal"):  # as a snapshot has them
        shutil.copy(path.with_name(name), copy / name)
    (tmp_path / "link.kb").symlink_to(copy / path.name)
    with KnowledgeBase.open(tmp_path / "link.kb", read_only=True) as linked:
        assert list(linked.triples()) == FACTS
    assert {entry.name for entry in tmp_path.iterdir() if "link" in entry.name} == {"link.kb"}


def test_a_device_copy_does_not_mix_a_file_with_its_copy(
    kb: KnowledgeBase, path: Path, encoder: HashingEncoder
) -> None:
    kb.close()
    shutil.copy(path, path.with_name("b.kb"))
    with KnowledgeBase.open(path, encoder) as a, KnowledgeBase.open(path.with_name("b.kb"), encoder) as b:
        a.add(Triple("Elm", "use", "wheels"))
        b.add(Triple("Ash", "use", "handles"))
        copy = copy_of(a)
        copy.sync(b)
        row = [triple.name for triple in b.triples_at(copy.ids)].index("Ash")
        np.testing.assert_array_equal(copy.buffers["key"][row].numpy(), b.embeddings().key[-1].astype(np.float32))


@pytest.mark.parametrize("place", ["a\0b.kb", "x" * 5000])
def test_what_cannot_be_a_path(place: str, encoder: HashingEncoder) -> None:
    for use in (lambda: KnowledgeBase.open(place), lambda: KnowledgeBase.create(place, encoder)):
        with pytest.raises(StoreError):
            use()


def test_a_tilde_is_the_home_folder(tmp_path: Path, encoder: HashingEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    KnowledgeBase.create("~/a.kb", encoder).close()
    assert (tmp_path / "a.kb").is_file()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.kb"]
    assert len(KnowledgeBase.open("~/a.kb")) == 0
