"""Files that appear whole or not at all, whatever already is at their path."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from unittest import mock

import pytest

from kblam.whole import whole, why_not, write_whole


def test_a_file_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with whole(file) as unfinished:
        unfinished.write_text("one")
        assert not file.exists()
    with pytest.raises(UnicodeEncodeError):
        write_whole(file, "half a pair: \ud800")
    assert file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.fixture(params=[True, False], ids=["links", "a file system without links"])
def _links(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(Path, "hardlink_to", mock.Mock(side_effect=OSError(errno.EPERM, "no links here")))


@pytest.mark.usefixtures("_links")
def test_a_file_that_is_not_to_be_replaced_stays_also_if_it_comes_meanwhile(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with pytest.raises(FileExistsError), whole(file, overwrite=False) as unfinished:
        (unfinished.write_text("one"), file.write_text("another's"))
    began = False
    with pytest.raises(FileExistsError), whole(file, overwrite=False):
        began = True
    assert not began, "minutes of writing would be lost"
    assert file.read_text() == "another's"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.usefixtures("_links")
def test_a_file_that_replaces_none_appears_when_the_block_ends_well(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with whole(file, overwrite=False) as unfinished:
        unfinished.write_text("one")
        assert not file.exists()
    assert file.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_two_writers_of_one_file_each_write_their_own(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    with whole(file) as first, whole(file) as second:
        first.write_text("first")
        second.write_text("second, and longer")
    assert file.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_what_cannot_be_written_is_named() -> None:
    """A write that fails says no file by itself."""
    with pytest.raises(OSError, match=r"No space left on device: '/dev/full'"):
        write_whole(Path("/dev/full"), "a" * 2**20)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "there" / "a.txt")
    write_whole(tmp_path / "link.txt", "é")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "there" / "a.txt").read_text(encoding="utf-8") == "é"


def test_what_is_no_file_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe, came = tmp_path / "pipe.txt", []
    os.mkfifo(pipe)
    reading = threading.Thread(target=lambda: came.append(pipe.read_text()))
    reading.start()
    assert why_not(pipe) is None
    write_whole(pipe, "through")
    reading.join(timeout=10)
    assert came == ["through"]
    assert pipe.is_fifo()


def test_why_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert why_not(tmp_path / "new" / "deeper" / "a.txt") is None
    assert "is a folder" in str(why_not(tmp_path))
    assert "no folder that may be written" in str(why_not(tmp_path / "file" / "a.txt"))
    with pytest.raises(IsADirectoryError), whole(tmp_path):
        pass
