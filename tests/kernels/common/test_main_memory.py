"""Memory that is free: of the machine, and of the container."""

from __future__ import annotations

from pathlib import Path

import pytest

from kblam_kernels.common.main_memory import available_memory

GIB = 2**30


def system(root: Path, groups: str, files: dict[str, str | int], available: int = 8 * GIB) -> Path:
    """A file system as Linux shows it."""
    meminfo = f"MemTotal: 99 kB\nMemAvailable:    {available // 1024} kB\nHugePages_Total:       0\n"
    for name, text in {"proc/meminfo": meminfo, "proc/self/cgroup": groups, **files}.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def unified(folder: str, limit: int | str, used: int, inactive: int = 0) -> dict[str, str | int]:
    at = f"sys/fs/cgroup/{folder}"
    return {
        f"{at}memory.max": limit,
        f"{at}memory.current": used,
        f"{at}memory.stat": f"anon 5\ninactive_file {inactive}",
    }


def legacy(folder: str, limit: int, used: int, inactive: int = 0) -> dict[str, str | int]:
    at = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{at}memory.limit_in_bytes": limit,
        f"{at}memory.usage_in_bytes": used,
        f"{at}memory.stat": f"inactive_file 7\ntotal_inactive_file {inactive}",
    }


@pytest.mark.parametrize(
    ("groups", "files", "free"),
    [
        ("0::/", {}, 8 * GIB),
        ("0::/a.slice/b", unified("a.slice/b/", 4 * GIB, 3 * GIB, GIB // 2), GIB + GIB // 2),
        ("0::/a.slice/b", unified("a.slice/", 4 * GIB, 3 * GIB) | unified("a.slice/b/", "max", GIB), GIB),
        ("0::/../../x", unified("", 2 * GIB, GIB), GIB),  # in a container of its own name space
        ("0::/a", unified("a/", 64 * GIB, GIB), 8 * GIB),
        ("0::/a", unified("a/", GIB, 2 * GIB), 0),
        ("9:cpu:/c\n4:memory:/a/b\n0::/", legacy("a/b/", 3 * GIB, 2 * GIB, GIB), 2 * GIB),
        ("4:cpu,memory:/docker/abc", legacy("", 3 * GIB, 2 * GIB), GIB),
        ("4:memory:/a", legacy("a/", 2**63 - 4096, GIB), 8 * GIB),
    ],
)
def test_the_limit_of_a_container_counts(groups: str, files: dict[str, str | int], free: int, tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, groups, files)) == free


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None


def test_this_machine_has_some() -> None:
    free = available_memory()
    assert free is None or 0 < free < 2**50
