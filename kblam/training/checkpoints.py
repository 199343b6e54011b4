"""`checkpoint-N` folders: there whole or not at all, so that a run that is killed goes on from the last one."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch

from kblam import strict_json
from kblam.adapter import KnowledgeAdapter
from kblam.adapter.files import CONFIG_FILE, load_weights, read_config
from kblam.errors import AdapterConfigError, AdapterError, AdapterFormatError, TrainingError, argument
from kblam.training.config import setting
from kblam.whole import why_not_in
from kblam.whole.lasting import settle_folder, settle_names
from kblam.whole.unfinished import HELD, in_use, others_write, unfinished_folder

try:
    import fcntl
except ImportError:  # not on Windows, where nobody keeps two runs from one folder
    fcntl = None  # type: ignore[assignment]

RETRIEVAL_FOLDER = "retrieval"
LOG = "log.jsonl"
_NAME = re.compile(r"checkpoint-(\d+)")
_STATE, _OPTIMIZER = "state.json", "optimizer.pt"
_LOCK = ".train.lock"
# What a run that was stopped before the end of stage 1 may have left; vectors where --cache is in the folder.
_UNFINISHED = r"\.[\w.-]+\.(?:part(?:\.\w+)?|lock)"  # folders, and files with their locks: kblam.whole.unfinished
_LEFT = re.compile(rf"{re.escape(LOG)}|events\.out\.tfevents\..*|{_UNFINISHED}|vectors-[0-9a-f]{{16}}")
_SHOWN = 3


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder that takes the place of `target` at the end of the block; one that is there is of no use any more."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with unfinished_folder(target) as fresh:
        yield fresh
        settle_folder(fresh, target)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        settle_names(target.parent)


@contextlib.contextmanager
def sole_run(output: Path) -> Iterator[None]:
    """Makes a folder, if it is not there, and keeps other runs from it until the block or this process ends.

    Raises:
        TrainingError: another run writes there.
        OSError: it cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path = output / _LOCK
    with path.open("ab") as file:
        # The run that had the lock until now may have removed the file.
        if not _locks(file) or not _is_at(file, path):
            raise _in_use(output)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locks(file: IO[bytes]) -> bool:
    """Locks a file, if nobody else has."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in HELD  # a file system without locks
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _in_use(output: Path, by: str = "another run of kblam train") -> TrainingError:
    return TrainingError(
        f"{by} writes to {output} now; wait for its end, or choose another {argument('output', '--output', ('train',))}"
    )


def check_output(output: Path, *, resume: bool) -> None:
    """Checks that a run may write to a folder; before minutes of work, not after.

    Raises:
        TrainingError: another run or command writes to it now; it holds a run, and `resume` is not said; or anything
            else that is not a run's; or it cannot be written.
    """
    other = f"choose another {argument('output', '--output', ('train',))}"
    existing = next(place for place in (output.absolute(), *output.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise TrainingError(f"{existing} is a file, and a run needs a folder; {other}")
    if (reason := why_not_in(existing)) is not None:
        raise TrainingError(f"{reason}; {other}")
    if others_write(Path(os.path.realpath(output))):
        raise _in_use(output, "another command")
    if existing != output.absolute():
        return
    if in_use(output / _LOCK):
        raise _in_use(output)
    states = [path / _STATE for path in (output / RETRIEVAL_FOLDER, *(path for _, path in checkpoints(output)))]
    is_run = any(state.is_file() for state in states)
    foreign = [] if is_run else sorted(path.name for path in output.iterdir() if not _is_left(path))
    if (output / CONFIG_FILE).exists() and not _is_adapter(output):  # a base model's: also beside a run
        foreign = [CONFIG_FILE]
    if foreign:
        shown = ", ".join(foreign[:_SHOWN]) + (", ..." if len(foreign) > _SHOWN else "")
        raise TrainingError(f"{output} holds something else than a run of kblam train ({shown}); {other}")
    if is_run and not resume:
        again = argument("resume=True", "--resume", ("train",))
        raise TrainingError(
            f"{output} holds a run already; pass {again}, or another {argument('output', '--output', ('train',))}"
        )


def _is_left(path: Path) -> bool:
    if _LEFT.fullmatch(path.name):
        return True
    is_cache = path.is_dir() and path.name != RETRIEVAL_FOLDER and not _NAME.fullmatch(path.name)
    return is_cache and all(_LEFT.fullmatch(inner.name) for inner in path.iterdir())


def _is_adapter(folder: Path) -> bool:
    try:
        read_config(folder)
    except AdapterConfigError:  # damaged, or of a newer format, but an adapter's
        return True
    except AdapterFormatError:
        return False
    return True


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, folder) of all checkpoints, the latest last."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))]
    return sorted(found)


def save_checkpoint(
    folder: Path,
    step: int,
    adapter: KnowledgeAdapter,
    optimizer: torch.optim.Optimizer,
    run: dict[str, Any],
    keep: int,
    seen: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Writes `folder/checkpoint-step` and drops all but the last `keep` ones.

    Args:
        seen: figures of the last steps, of which the log does not tell yet.
    """
    target = folder / f"checkpoint-{step}"
    with whole_folder(target) as fresh:
        save_state(fresh, adapter, run, step, seen)
        torch.save(optimizer.state_dict(), fresh / _OPTIMIZER)
    for _, old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    return target


def save_state(
    folder: Path,
    adapter: KnowledgeAdapter,
    run: dict[str, Any],
    step: int = 0,
    seen: Sequence[Mapping[str, float]] = (),
) -> None:
    """Writes the adapter, and which run it is of."""
    adapter.save_pretrained(folder)
    state = {"step": step, "run": run, "seen": list(seen)}
    (folder / _STATE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")


def load_checkpoint(
    path: Path, adapter: KnowledgeAdapter, optimizer: torch.optim.Optimizer, run: dict[str, Any]
) -> tuple[int, list[dict[str, float]]]:
    """Fills adapter and optimizer; returns the step that comes next, and `seen` of `save_checkpoint`.

    Raises:
        TrainingError: the checkpoint cannot be read, or is of a run with other settings.
    """
    step, seen = load_state(path, adapter, run)
    try:
        # To the weights' device it goes by itself.
        optimizer.load_state_dict(torch.load(path / _OPTIMIZER, map_location="cpu", weights_only=True))
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
        raise _damaged(path, f"{_OPTIMIZER} cannot be read ({_first_line(error)})") from error
    return step, seen


def load_state(path: Path, adapter: KnowledgeAdapter, run: dict[str, Any]) -> tuple[int, list[dict[str, float]]]:
    """Fills the adapter; returns what `load_checkpoint` does.

    Raises:
        TrainingError: it cannot be read, or is of a run with other settings.
    """
    before, step, seen = _state_of(path)
    _check_same(path, before, run)
    try:
        load_weights(adapter, path, strict=True)
    except AdapterError as error:
        raise _damaged(path, _first_line(error)) from error
    return step, seen


def check_settings(output: Path, settings: dict[str, Any]) -> None:
    """Before long work: whether the run in a folder, if there is one, has these settings.

    Raises:
        TrainingError: it has others, or cannot be read.
    """
    path = next((path for _, path in reversed(checkpoints(output))), output / RETRIEVAL_FOLDER)
    if (path / _STATE).exists():
        before, _, _ = _state_of(path)
        _check_same(path, {name: before.get(name) for name in settings}, settings)


def _state_of(path: Path) -> tuple[dict[str, Any], int, list[dict[str, float]]]:
    """The settings of the run, the step that comes next, and figures that were not told, which older ones lack."""
    try:
        state = strict_json.loads((path / _STATE).read_text(encoding="utf-8"))
        seen = [{name: float(figure) for name, figure in each.items()} for each in state.get("seen", [])]
        return dict(state["run"]), int(state["step"]), seen
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"{_STATE} cannot be read ({_first_line(error)})") from error


def _check_same(path: Path, before: dict[str, Any], run: dict[str, Any]) -> None:
    other = sorted(name for name in run.keys() | before.keys() if run.get(name) != before.get(name))
    if other:
        changes = ", ".join(f"{_called(name)} was {before.get(name)!r}, is {run.get(name)!r}" for name in other[:4])
        raise TrainingError(f"{path} is of a run with other settings: {changes}; use those, or another output folder")


def _called(name: str) -> str:
    """A setting, or what else decides the weights, with what it comes of."""
    of = {
        "facts": f"{argument('triples', '--kb', ('train',), 'triples')} and the invented world: their number and hash",
        "vectors": "the encoder",
        "rows": " x ".join(
            (*map(setting, ("per_device_train_batch_size", "gradient_accumulation_steps")), "processes")
        ),
        "mixed_precision": "--mixed_precision of the launch",
    }
    return f"{name} ({of[name]})" if name in of else setting(name)


def _damaged(path: Path, reason: str) -> TrainingError:
    rest = "stage 1 is done again" if path.name == RETRIEVAL_FOLDER else "the run goes on from the one before"
    return TrainingError(f"{path} is damaged: {reason}; delete that folder, and {rest}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
