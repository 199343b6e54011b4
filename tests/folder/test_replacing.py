"""What stands where a model folder is written: replaced as a whole, or left as it was."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kblam import KnowledgeAdapter, KnowledgeBase
from kblam.errors import (
    ModelFolderError,
    StoreError,
    StoreWriteError,
)
from kblam.folder import integrate, is_model_folder, new
from kblam.models.loading import load_base
from tests.fakes import HashingEncoder
from tests.folder.folders import ENCODER, answer_of, left_behind
from tests.generation.tiny import EMBEDDING_DIM, FACTS, tiny_tokenizer


def test_what_exists_is_not_replaced_unless_asked(
    written: Path, base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    with pytest.raises(ModelFolderError, match=r"folder exists; choose another folder, or replace it"):
        integrate(base, adapter, kb, written)
    kb.remove("Quiet Harbor")
    integrate(base, adapter, kb, written, overwrite=True)
    with KnowledgeBase.open(written / "knowledge.kb", ENCODER) as copy:
        assert len(copy) == 2
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ModelFolderError, match="is not a model folder"):
            integrate(base, adapter, kb, mine, overwrite=overwrite)
    assert (mine / "thesis.txt").read_text() == "years of work"
    assert left_behind(tmp_path) == []


def test_a_base_that_would_go_with_the_old_folder_is_not_referred_to(
    base: Path, adapter: KnowledgeAdapter, kb: KnowledgeBase, tmp_path: Path
) -> None:
    whole = integrate(base, adapter, kb, tmp_path / "whole", include_base=True)
    expected = answer_of(whole).text
    (tmp_path / "link").symlink_to(whole)
    for target in (whole, tmp_path / "link"):
        for model in (whole / "base", load_base(str(whole / "base"), device="cpu")):
            with pytest.raises(ModelFolderError, match=r"base lies in .*, which is replaced.*; pass include_base"):
                integrate(model, adapter, kb, target, tokenizer=tiny_tokenizer(), overwrite=True)
    integrate(whole / "base", adapter, kb, whole, tokenizer=tiny_tokenizer(), include_base=True, overwrite=True)
    assert answer_of(whole).text == expected


def test_an_empty_folder_is_taken(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert is_model_folder(write(tmp_path / "folder"))


def test_an_open_knowledge_base_is_copied_and_not_what_lies_at_its_path_now(
    base: Path, adapter: KnowledgeAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HashingEncoder(EMBEDDING_DIM)
    monkeypatch.chdir(tmp_path)
    with KnowledgeBase.create("facts.kb", encoder) as kb:
        kb.add(FACTS)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        integrate(base, adapter, kb, tmp_path / "folder")
        with KnowledgeBase.create(tmp_path / "new.kb", HashingEncoder(8)):
            pass
        (tmp_path / "new.kb").rename(tmp_path / "facts.kb")
        with pytest.raises(StoreError, match="was removed, or replaced by another file"):
            integrate(base, adapter, kb, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with KnowledgeBase.open(tmp_path / "folder" / "knowledge.kb") as copy:
        assert len(copy) == len(FACTS)


def test_two_calls_at_once_do_not_touch_each_others_unfinished_folder(tmp_path: Path) -> None:
    with new.new_folder(tmp_path / "a") as first:
        (first / "what").write_text("first")
        with new.new_folder(tmp_path / "a") as second:
            (second / "what").write_text("second")
        assert (tmp_path / "a" / "what").read_text() == "second"
        assert (first / "what").read_text() == "first"
    assert (tmp_path / "a" / "what").read_text() == "first"
    assert left_behind(tmp_path) == []


def test_what_came_meanwhile_is_replaced_only_where_that_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with new.new_folder(target, overwrite=False) as fresh:
        (fresh / "what").write_text("first")
        target.mkdir()  # an empty one is nothing
    for came in ("first", "a file"):
        if came == "a file":
            shutil.rmtree(target)
            target.write_text(came)
        with (
            pytest.raises(StoreWriteError, match="something has come there meanwhile, and stays; choose another place"),
            new.new_folder(target, overwrite=False) as fresh,
        ):
            (fresh / "what").write_text("second")
        assert (target / "what" if target.is_dir() else target).read_text() == came
    assert left_behind(tmp_path) == []


def test_of_two_commands_that_write_one_folder_the_second_is_told(tmp_path: Path) -> None:
    target, told = tmp_path / "new" / "a", "another command writes the folder .*a now; wait for its end, or choose"
    with new.sole_writer(target):
        with pytest.raises(StoreWriteError, match=told):
            new.check_new_folder(target)
        with pytest.raises(StoreWriteError, match=told), new.sole_writer(target):
            pass
        with new.new_folder(target) as fresh:
            (fresh / "what").write_text("mine")
    new.check_new_folder(target)
    with new.sole_writer(target):
        assert (target / "what").read_text() == "mine"
    assert left_behind(target.parent) == []


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "stopped"]
)
def test_a_failed_write_leaves_the_old_folder_and_nothing_else(
    written: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    def fail(*_: object) -> None:
        raise error

    before = (written / "kblam.json").read_bytes()
    monkeypatch.setattr(KnowledgeBase, "copy_to", fail)
    with pytest.raises((StoreWriteError, KeyboardInterrupt)) as raised:
        write(written, overwrite=True)
    if isinstance(error, OSError):
        assert "No space left on device" in str(raised.value)
    with pytest.raises((StoreWriteError, KeyboardInterrupt)):
        write(tmp_path / "new")
    assert (written / "kblam.json").read_bytes() == before
    assert not (tmp_path / "new").exists()
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["disk", "^C"])
def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_place(
    written: Path,
    write: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    rename = Path.rename

    def fail_for_the_new_one(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(new, "_exchange", lambda *_: False)  # as on a system without it
    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises((StoreWriteError, KeyboardInterrupt)):
        write(written, overwrite=True)
    assert answer_of(written).text
    assert left_behind(tmp_path) == []


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("new", sys.argv[3])  # not its package, which brings torch
new = importlib.util.module_from_spec(spec)
spec.loader.exec_module(new)
real, can, calls = Path.rename, sys.argv[2] == "exchange", []
if not can:
    new._exchange = lambda *_: False
def rename(self, target):
    moved = real(self, target)
    calls.append(self)
    os.kill(os.getpid(), signal.SIGKILL)
    return moved
Path.rename = rename
with new.new_folder(Path(sys.argv[1])) as fresh:
    (fresh / "what").write_text("new")
"""


@pytest.mark.parametrize("how", ["exchange", "two renames"])
def test_a_killed_replacement_leaves_a_folder(tmp_path: Path, how: str) -> None:
    target = tmp_path / "a [b]"
    target.mkdir()
    (target / "what").write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(target), how, new.__file__], timeout=200, check=False)
    # An exchange is one step, after which nothing is renamed.
    assert killed.returncode == (0 if how == "exchange" else -signal.SIGKILL), killed
    if how == "exchange":
        assert (target / "what").read_text() == "new"
    else:
        assert not target.exists()
        new.restore(target)
        assert (target / "what").read_text() == "old"
    with new.new_folder(target) as fresh:
        (fresh / "what").write_text("newer")
    assert (target / "what").read_text() == "newer"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a [b]"]


def test_what_was_left_of_another_folder_is_not_taken(tmp_path: Path) -> None:
    others = [tmp_path / f".model{rest}" for rest in (".v2.7-0123abcd.old", ".v2.7-0123abcd.part", ".mine.old")]
    for other in others:
        other.mkdir()
        (other / "what").write_text("of another")
    new.restore(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with new.new_folder(tmp_path / "model") as fresh:
        (fresh / "what").write_text("new")
    assert all((other / "what").read_text() == "of another" for other in others)


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with new.new_folder(tmp_path / "link") as fresh:
        (fresh / "what").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "what").read_text() == "new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "real"]


def test_a_place_that_cannot_be_written(write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreWriteError, match=r"cannot write the folder .*file/folder: .*file is no folder"):
        write(tmp_path / "file" / "folder")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_and_its_files_keep_their_permissions(tmp_path: Path) -> None:
    """What a library makes for this user alone, as safetensors does, others may read as they may read the rest."""
    before = os.umask(0o022)
    try:
        for is_first in (True, False):
            with new.new_folder(tmp_path / "a") as fresh:
                for name in ("weights", "secret"):
                    os.close(os.open(fresh / name, os.O_CREAT | os.O_WRONLY, 0o600))
            assert mode_of(tmp_path / "a" / "weights") == 0o644
            if is_first:
                (tmp_path / "a" / "secret").chmod(0o600)
                (tmp_path / "a").chmod(0o700)
        assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "secret")) == (0o700, 0o600)
    finally:
        os.umask(before)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["secret", "weights"]


def test_a_folder_is_on_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[bool] = []
    sync = os.fsync

    def noted(handle: int) -> None:
        there.append((tmp_path / "a").exists())
        sync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with new.new_folder(tmp_path / "a") as fresh:
        (fresh / "inner").mkdir()
        (fresh / "inner" / "what").write_text("new")
    assert there == [False, False, False, True], "the file, its folder, the folder; then its name"


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from kblam.whole.unfinished import unfinished_folder
with unfinished_folder(Path(sys.argv[1])) as fresh:
    (fresh / "what").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_folder_that_a_killed_call_left_goes_with_the_next_one(tmp_path: Path) -> None:
    target = tmp_path / "a"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(target)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(left_behind(tmp_path)) == 1
    with new.new_folder(target) as fresh:
        assert left_behind(tmp_path) == [fresh.name]
        (fresh / "what").write_text("new")
    assert left_behind(tmp_path) == []


def test_an_adapter_that_a_killed_call_left_goes_with_the_next_one(adapter: KnowledgeAdapter, tmp_path: Path) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(tmp_path / "adapter")], timeout=60, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    adapter.save_pretrained(tmp_path)
    assert left_behind(tmp_path) == []
