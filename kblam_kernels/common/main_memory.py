"""How much main memory a process may still take, on Linux: of the machine, and of the container it is in."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

_ROOT = Path("/")
# Files of a group: its limit, what it uses, and the name in memory.stat of what it could drop of that.
_UNIFIED = "memory.max", "memory.current", "inactive_file"
_LEGACY = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def available_memory(root: Path = _ROOT) -> int | None:
    """Bytes of main memory that a new process could use; None where the system does not say.

    Args:
        root: of the file system.
    """
    meminfo = _fields(root / "proc/meminfo")
    if "MemAvailable:" not in meminfo:
        return None
    return min([meminfo["MemAvailable:"] * 1024, *_left_in_groups(root)])


def _left_in_groups(root: Path) -> list[int]:
    """What is left of the limit of each control group that this process is in."""
    left = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            left += _left_up_to(root / "sys/fs/cgroup", path, *_UNIFIED)
        elif "memory" in controllers.split(","):
            left += _left_up_to(root / "sys/fs/cgroup/memory", path, *_LEGACY)
    return left


def _left_up_to(mount: Path, path: str, limit: str, used: str, droppable: str) -> list[int]:
    """Of a group and all above it. Inside a container its own one may be the mount itself, whatever its path says."""
    left = []
    for group in (PurePosixPath(path), *PurePosixPath(path).parents):
        folder = mount / str(group).lstrip("/")
        most, now = _text(folder / limit).strip(), _text(folder / used).strip()
        if most.isdecimal() and now.isdecimal():  # not "max"
            left.append(max(0, int(most) - int(now) + _fields(folder / "memory.stat").get(droppable, 0)))
    return left


def _fields(file: Path) -> dict[str, int]:
    """The number after each name of a file with one of each a line."""
    lines = [line.split() for line in _text(file).splitlines()]
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
