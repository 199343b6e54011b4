"""Files that appear whole or not at all, whatever already is at their path."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from kblam.whole import whole, why_no_folder, why_not, write_whole
from kblam.whole.unfinished import unfinished_folder


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
    (tmp_path / "link").symlink_to(tmp_path / "file" / "a.txt")  # it is written where the link leads
    assert "no folder that may be written" in str(why_not(tmp_path / "link"))
    with pytest.raises(IsADirectoryError), whole(tmp_path):
        pass


@pytest.mark.timeout(30)
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_where_nothing_can_be_made_nobody_tries_for_ever() -> None:
    with pytest.raises(OSError, match=r"/proc/x\.txt"), whole(Path("/proc/x.txt")):
        pass
    with pytest.raises(OSError, match="/proc/x"), unfinished_folder(Path("/proc/x")):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc")
def test_where_nobody_can_make_a_thing_is_told_whatever_the_permissions_say() -> None:
    """They let root write in /proc, and nothing can be made there."""
    for reason in (why_not, why_no_folder):
        for place in ("/proc/x", "/proc/x/deeper", "/dev/fd/x"):
            assert "is no folder that may be written" in str(reason(Path(place))), place


def test_looking_whether_a_place_can_be_written_leaves_nothing(tmp_path: Path) -> None:
    assert why_not(tmp_path / "a") is None
    assert why_no_folder(tmp_path / "new" / "a") is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.usefixtures("_umask")
def test_a_new_file_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    """Libraries that write a temporary file of their own, as safetensors does, make it for one user alone."""
    with whole(tmp_path / "a.bin") as unfinished:
        unfinished.unlink()
        os.close(os.open(unfinished, os.O_CREAT | os.O_WRONLY, 0o600))
    assert mode_of(tmp_path / "a.bin") == 0o644


@pytest.mark.usefixtures("_umask")
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755, 0o444])
def test_a_file_keeps_its_permissions_where_it_is_replaced(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "a.txt"
    file.touch()
    file.chmod(mode)
    with whole(file) as unfinished:
        assert mode_of(unfinished) == mode | 0o600, "what is written is shown to others"
        unfinished.write_text("new")
    assert (mode_of(file), file.read_text()) == (mode, "new")


def test_a_file_is_on_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut can leave an empty one under its name."""
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def noted(handle: int) -> None:
        steps.append("content" if stat.S_ISREG(os.fstat(handle).st_mode) else "name")
        sync(handle)

    def renamed(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "a.txt", "one")
    assert steps == ["content", "rename", "name"]
    steps.clear()
    write_whole(tmp_path / "a.txt", "two", lasts=False)
    assert steps == ["rename"]


KILLED = """
import os, signal, sys
from pathlib import Path
from kblam.whole import whole
with whole(Path(sys.argv[1])) as unfinished:
    unfinished.write_text("half")
    Path(f"{unfinished}-wal").write_text("of SQLite")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_call_left_goes_with_the_next_one(tmp_path: Path) -> None:
    file = tmp_path / "a [b].txt"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 3
    write_whole(tmp_path / "other.txt", "of another")
    assert len(list(tmp_path.iterdir())) == 4
    with whole(file) as slow:
        slow.write_text("slow")
        write_whole(file, "quick")
        assert slow.read_text() == "slow", "what another call is writing was taken for what is left"
    assert file.read_text() == "slow"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a [b].txt", "other.txt"]
