"""What triples said before they were changed; no vLLM is needed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kblam import KnowledgeBase, Triple
from kblam.errors import StoreReplacedError
from kblam.vllm import past as past_module
from kblam.vllm.files import AllNames, BaseNames, VersionWords
from kblam.vllm.past import Past
from kblam.vllm.registry import Loaded, file_at
from tests.fakes import HashingEncoder

COLOR, SIZE = ("Falcon", "color"), ("Falcon", "size")


@pytest.fixture
def base(tmp_path: Path) -> KnowledgeBase:
    made = KnowledgeBase.create(tmp_path / "facts.kb", HashingEncoder(16))
    made.add([Triple(*COLOR, "green"), Triple(*SIZE, "small")])
    return made


def loaded(base: KnowledgeBase) -> Loaded:
    """The version that the file has now."""
    loaded.generation = getattr(loaded, "generation", 10**6) + 1  # type: ignore[attr-defined]
    return Loaded(base.revision, loaded.generation, len(base), str(base.path), file_at(base.path))  # type: ignore[attr-defined]


def change(base: KnowledgeBase, past: Past, *triples: Triple) -> None:
    past.keep(base, [one.identity for one in triples])
    base.add(list(triples))


def test_every_version_has_its_own_words_however_often_they_change(base: KnowledgeBase, tmp_path: Path) -> None:
    here, there = Past(tmp_path), Past(tmp_path)  # of two processes
    versions, colors, sizes = [], ["green"], ["small"]
    for at in range(4):
        versions.append(VersionWords(loaded(base), there))
        colors.append(f"color {at}")
        change(base, here, Triple(*COLOR, colors[-1]))
        versions.append(VersionWords(loaded(base), there))
        sizes.append(f"size {at}")
        change(base, here, Triple(*SIZE, sizes[-1]))
    for at, words in enumerate(versions):
        color, size = (one.value for one in words.of([1, 2]).values() if one is not None)
        assert (color, size) == (colors[(at + 1) // 2], sizes[at // 2])
        assert words.changed() == {1, 2} if at < 7 else {2}


def test_a_triple_that_was_removed_is_still_said_with_its_sources(base: KnowledgeBase, tmp_path: Path) -> None:
    record = {"document": "birds.pdf", "page": 3, "quote": "It is green."}
    base.add(Triple.from_record({"name": "Falcon", "property": "color", "value": "green", "sources": [record]}))
    words, past = VersionWords(loaded(base), Past(tmp_path)), Past(tmp_path)
    past.keep(base, [COLOR, ("nobody", "knows")])
    base.remove(*COLOR)
    found = words.of([1])[1]
    assert found is not None
    assert found.sources[0].to_record() == record


def test_what_another_program_changed_in_between_is_not_taken_for_it(base: KnowledgeBase, tmp_path: Path) -> None:
    words, past = VersionWords(loaded(base), Past(tmp_path)), Past(tmp_path)
    base.add(Triple(*COLOR, "red"))  # nobody kept "green"
    change(base, past, Triple(*COLOR, "blue"))
    assert words.of([1]) == {1: None}


def test_a_change_between_two_looks_at_the_file_is_seen(
    base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, past = VersionWords(loaded(base), Past(tmp_path)), Past(tmp_path)
    plain = VersionWords.changed

    def late(self: VersionWords) -> frozenset[int]:
        change(base, past, Triple(*COLOR, "red"))
        return plain(self)

    monkeypatch.setattr(VersionWords, "changed", late)
    assert words.of([1])[1] == Triple(*COLOR, "green")


def test_copies_of_one_file_have_words_of_their_own(base: KnowledgeBase, tmp_path: Path) -> None:
    other = KnowledgeBase.open(shutil.copy(tmp_path / "facts.kb", tmp_path / "copy.kb"), HashingEncoder(16))
    other.add(Triple(*COLOR, "white"))
    past, words = Past(tmp_path), VersionWords(loaded(other), Past(tmp_path))
    change(base, past, Triple(*COLOR, "red"))
    change(base, past, Triple(*COLOR, "blue"))  # "red" was said at the revision at which the other file says "white"
    other.add(Triple(*COLOR, "black"))
    assert words.of([1]) == {1: None}


def test_a_folder_that_somebody_tidied_up_is_made_again(base: KnowledgeBase, tmp_path: Path) -> None:
    past = Past(tmp_path / "engine")
    first = VersionWords(loaded(base), past)
    base.add(Triple(*COLOR, "red"))
    assert first.of([1]) == {1: None}
    second = VersionWords(loaded(base), past)
    change(base, past, Triple(*COLOR, "blue"))
    assert second.of([1])[1] == Triple(*COLOR, "red")


def test_only_so_much_is_kept(base: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past_module, "MOST_CHANGES", 3)
    past = Past(tmp_path / "engine")
    first = loaded(base)
    for at in range(5):
        change(base, past, Triple(*COLOR, f"color {at}"))
    assert len(list((tmp_path / "engine").iterdir())) == 3
    assert VersionWords(first, past).of([1]) == {1: None}
    monkeypatch.setattr(past_module, "MOST_BYTES", 10)
    change(base, past, Triple(*COLOR, "the last"))
    assert list((tmp_path / "engine").iterdir()) == []


def test_words_are_read_from_no_other_file_that_is_in_its_place_by_now(base: KnowledgeBase, tmp_path: Path) -> None:
    words = VersionWords(loaded(base), Past(tmp_path))
    base.close()
    with KnowledgeBase.create(tmp_path / "other.kb", HashingEncoder(16)) as other:
        other.add(Triple("Heron", "color", "grey"))
    (tmp_path / "other.kb").replace(tmp_path / "facts.kb")
    with pytest.raises(StoreReplacedError, match=r"facts\.kb was removed, or replaced by another file"):
        words.of([1])
    with KnowledgeBase.open(tmp_path / "facts.kb") as other:  # it is loaded again: of an engine that starts anew, too
        first = replace(loaded(other), generation=words._loaded.generation)
        read = VersionWords(first, Past(tmp_path)).of([1])[1]
    assert read is not None
    assert read.name == "Heron"


def test_of_a_file_that_is_none_of_the_engine_s_any_more_nothing_is_kept(base: KnowledgeBase, tmp_path: Path) -> None:
    bases = {"facts": loaded(base)}
    names = AllNames(lambda: bases)
    names.of(bases["facts"])
    with KnowledgeBase.create(tmp_path / "other.kb", HashingEncoder(16)) as other:
        bases["other"] = loaded(other)
    names.of(bases["other"])
    assert len(names._of) == 2
    gone = bases.pop("facts")
    bases["other"] = replace(bases["other"], generation=10**9)
    assert names.of(bases["other"]) is names.of(bases["other"])
    assert names._of.keys() == {bases["other"].path}
    assert names.of(gone).says_a_name("Falcon")  # a request that came before it went


def test_properties_are_known_as_they_are_in_the_file_now(base: KnowledgeBase) -> None:
    known = BaseNames(base)
    assert [known.is_property(text) for text in ("Color", "date of  birth", "falcon")] == [True, False, False]
    base.add(Triple("Falcon", "date of birth", "3 May"))
    known.follow(base)
    assert known.is_property("Date of birth")
    base.remove(*COLOR)
    known.follow(base)
    assert [known.is_property(text) for text in ("color", "size", "date of birth")] == [False, True, True]
    base.add(Triple("Falcon", "wingSpan", "1.1 m"))
    known.follow(base)
    assert all(known.is_property(text) for text in ("wing span", "wingSpan", "WINGSPAN"))
    for one in ("size", "date of birth", "wingSpan"):
        base.remove("Falcon", one)
    known.follow(base)
    assert not any(known.is_property(text) for text in ("size", "date of birth", "wing span"))


def test_the_front_end_reads_identifiers_as_a_judge_does(base: KnowledgeBase) -> None:
    base.add([Triple(name, "owner", "x") for name in ("PhoneNumber", "OrderService")])
    names = BaseNames(base)
    asked = "bob phone number and the order service"
    assert names.as_meant(asked, ("Phone number",)) == "bob phone number and the OrderService"
    assert names.as_meant(asked) == "bob PhoneNumber and the OrderService"
