"""`kblam train` and `kblam calibrate`: what they refuse, what they list, and one run of each."""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.cli import train as command
from kblam.errors import TrainingConfigError, TrainingError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.shipped import DEMO, SMOLLM2_ADAPTER
from kblam.training import calibration_run
from kblam.training.config import TrainingConfig
from kblam.training.material import Material
from kblam.training.run import Trainer
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder
from tests.models.tiny import EMBEDDING_DIM, tiny_model
from tests.training.conftest import SMALL, cache, prepared, small, small_head

__all__ = ["cache", "prepared"]  # the fixtures


def flags(**changes: object) -> list[str]:
    return [f"--{name}={value}" for name, value in {**SMALL, **changes}.items()]


def test_settings_are_listed_with_what_was_given() -> None:
    shown = kblam("train", "-o", "nowhere", "--settings", "--max_steps", "7").ok().stdout
    assert "max_steps: 7  (steps of stage 2" in shown
    assert not Path("nowhere").exists()
    assert kblam("train", "--settings", "--max_steps", "7").ok().stdout == shown


def test_vectors_are_kept_in_one_place_wherever_a_run_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Path] = []
    monkeypatch.setattr(command, "_train", lambda *given, cache, **options: seen.append(cache))
    monkeypatch.delenv("KBLAM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for shared in ("", "relative", str(tmp_path / "shared")):
        monkeypatch.setenv("XDG_CACHE_HOME", shared)
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.mkdir(exist_ok=True)
            monkeypatch.chdir(folder)
            kblam("train", "-o", "x").ok()
    kblam("train", "-o", "x", "--cache", "mine").ok()
    home, chosen = tmp_path / ".cache" / "kblam" / "vectors", tmp_path / "shared" / "kblam" / "vectors"
    assert seen == [home, home, home, home, chosen, chosen, Path("mine")]

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setattr(Path, "home", nobody)
    kblam("train", "-o", "x").failed(2, "no folder for sentence vectors: Could not determine home directory; choose")


def test_training_needs_a_folder_to_write() -> None:
    kblam("train", "--max_steps", "7").failed(2, "say with --output where checkpoints, log and the adapter go")


def test_unknown_settings_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    kblam("train", "-o", "x", "--max_step", "7").failed(2, "there is no setting --max_step; did you mean --max_steps?")
    kblam("train", "-o", "x", "--zzz", "7").failed(2, "there is no setting --zzz; --settings lists them")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(command.CommandError, match=r"training needs accelerate; pip install 'kblam-kernels\[train\]'"):
        command._train(small(), Path("x"), None, resume=False, cache=Path("y"), device=None)


@pytest.mark.parametrize(
    ("flag", "text", "read"),
    [
        ("--prompt", "### Question: {question}\n### Answer:", "### Question: {question}\n### Answer:"),
        ("--prompt", "Ask # {question}", "Ask # {question}"),
        ("--prompt", " {question}\nsays\nthe model ", " {question}\nsays\nthe model "),
        ("--prompt", '"{question}"', '"{question}"'),
        ("--prompt", "null", None),
        ("--question_head", "NULL", None),
        ("--refusal", "No", "No"),
        ("--refusal", "42", "42"),
        ("--model", "1e3", "1e3"),
        ("--learning_rate", "1e-3", 1e-3),
        ("--pointer", "false", False),
        ("--layers", "[0, 2]", [0, 2]),
        ("--max_steps", "null", None),
    ],
)
def test_a_text_is_taken_as_it_stands_and_all_else_as_yaml_reads_it(flag: str, text: str, read: object) -> None:
    assert command._flags([flag, text]) == command._flags([f"{flag}={text}"]) == {flag[2:]: read}


def test_messages_name_settings_as_they_were_typed(tmp_path: Path) -> None:
    kblam("train", "-o", "x", "--max_steps", "-1").failed(2, "--max_steps must be a whole number of at least 0; got -1")
    kblam("train", "-o", "x", "--question_head", "null").failed(
        2, "set --retrieval_steps to 0 or --question_head to mlp"
    )
    with pytest.raises(TrainingConfigError, match=r"^max_steps must be a whole number"):
        small(max_steps=-1)


def test_tensorboard_that_is_missing_is_told_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setattr("kblam.training.material.gather", lambda *_, **__: pytest.fail("something was loaded"))
    told = kblam("train", "-o", tmp_path / "adapter", "--report_to", "tensorboard")
    told.failed(2, "--report_to is tensorboard, which cannot be imported", "pip install 'kblam-kernels[train]'")


def test_a_run_of_other_settings_is_told_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.training.material.gather", lambda *_, **__: pytest.fail("something was loaded"))
    (tmp_path / "retrieval").mkdir()
    run = {**TrainingConfig(bf16=False).to_dict(), "rows": 16}
    (tmp_path / "retrieval" / "state.json").write_text(json.dumps({"step": 0, "run": run}))
    told = kblam("train", "-o", tmp_path, "--resume", "--bf16", "false", "--seed", "4", "--save_steps", "7")
    told.failed(2, "retrieval is of a run with other settings: --seed was 0, is 4; use those, or another output folder")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"rows": 8}, "rows (--per_device_train_batch_size x --gradient_accumulation_steps x processes) was 8, is 4"),
        ({"mixed_precision": "bf16"}, "mixed_precision (--mixed_precision of the launch) was 'bf16', is None"),
        ({"facts": "1, ab"}, "facts (--kb and the invented world: their number and hash) was '1, ab', is '"),
        ({"vectors": "other"}, "vectors (the encoder) was 'other', is 'hashing:0:16'"),
    ],
)
def test_a_run_of_another_launch_or_other_data_is_told_before_anything_is_encoded(
    changed: dict[str, Any],
    told: str,
    prepared: Callable[..., Material],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Trainer(small(), prepared(), tmp_path / "adapter", say=[].append).run
    (tmp_path / "adapter" / "retrieval").mkdir(parents=True)
    state = json.dumps({"step": 0, "run": {**run, **changed}})
    (tmp_path / "adapter" / "retrieval" / "state.json").write_text(state)
    monkeypatch.setattr("kblam.training.material.Vectors", lambda *_: pytest.fail("something was encoded"))
    options = ["-o", str(tmp_path / "adapter"), "--cache", str(tmp_path / "vectors"), *flags(), "--resume"]
    kblam("train", *options).failed(2, f"retrieval is of a run with other settings: {told}")


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A knowledge base whose encoder is found where no other is named; others have vectors of eight numbers."""
    encoder = HashingEncoder(EMBEDDING_DIM)
    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", lambda spec, device: encoder)
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda spec="", **options: HashingEncoder(8))
    with KnowledgeBase.create(tmp_path / "facts.kb", encoder) as made:
        made.add([Triple("Machine 7", "torque", "9 newton metres")])
    return tmp_path / "facts.kb"


def test_training_on_a_base_takes_the_encoder_it_was_built_with(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[str] = []

    def gather(settings: Any, *, triples: list[Triple], encoder: Any = None, **_: Any) -> None:
        taken.append(encoder.fingerprint)
        raise TrainingError(f"{len(triples)} triples, far enough")

    monkeypatch.setattr("kblam.training.material.gather", gather)
    options = ["-o", str(tmp_path / "adapter"), "-k", str(base)]
    kblam("train", *options).failed(2, "1 triples, far enough")
    assert taken == [HashingEncoder(EMBEDDING_DIM).fingerprint]
    told = kblam("train", *options, "--encoder", "other")
    assert told.status == 2
    assert "facts.kb was built with" in told.stderr
    assert len(taken) == 1, "before anything is encoded"


@pytest.mark.parametrize("named", [["--encoder", "other"], []], ids=["named", "recorded"])
@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_texts_are_encoded_where_the_run_computes(
    device: str, named: list[str], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder would take the first GPU by itself, whatever `--device` says; an accelerator's has no number."""
    asked: list[Any] = []

    def load(spec: str, device: str | None = None) -> HashingEncoder:
        asked.append(device)
        return HashingEncoder(EMBEDDING_DIM)

    def gather(settings: Any, *, device: str, encoder_device: str, **_: Any) -> None:
        asked.extend((device, encoder_device))
        raise TrainingError("far enough")

    monkeypatch.setattr("kblam.knowledge.load_encoder", load)
    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", load)
    monkeypatch.setattr("kblam.training.material.gather", gather)
    options = ["-o", str(tmp_path / "adapter"), "-k", str(base), *named, "--device", device]
    kblam("train", *options).failed(2, "far enough")
    assert asked == [device] * 3


@pytest.mark.parametrize("has_base", [True, False])
def test_calibration_encodes_on_the_device_that_is_asked_for(
    has_base: bool, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def load(spec: str = "", device: str | None = None) -> HashingEncoder:
        asked.append(device)
        return HashingEncoder(EMBEDDING_DIM)

    def recalibrate(*_: Any, **__: Any) -> None:
        raise TrainingError("far enough")

    monkeypatch.setattr("kblam.knowledge.load_encoder", load)
    monkeypatch.setattr("kblam.knowledge.knowledge_base.load_recorded_encoder", load)
    monkeypatch.setattr("kblam.training.calibration_run.recalibrate", recalibrate)
    monkeypatch.setattr("kblam.adapter.fresh.looks_untrained", lambda adapter: False)
    adapter = KnowledgeAdapter(AdapterConfig.for_model(tiny_model().config, EMBEDDING_DIM, base_model="tiny"))
    adapter.save_pretrained(tmp_path / "adapter")
    options = ["-a", str(tmp_path / "adapter"), "-o", str(tmp_path / "new"), *(["-k", str(base)] if has_base else [])]
    kblam("calibrate", *options, "--device", "cuda:1").failed(2, "far enough")
    assert set(asked) == {"cuda:1"}


def test_a_base_without_triples_is_not_replaced_by_invented_facts(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in ("material.gather", "calibration_run.recalibrate"):
        monkeypatch.setattr(f"kblam.training.{work}", lambda *_, **__: pytest.fail("it goes on"))
    with KnowledgeBase.open(base, HashingEncoder(EMBEDDING_DIM)) as opened:
        opened.remove("Machine 7")
    for name, status in (("train", 2), ("calibrate", 1)):
        kblam(name, "-o", str(tmp_path / "adapter"), "-k", str(base)).failed(2, "has no triples to learn from")
        kblam(name, "-o", str(base / "adapter"), "-k", str(base)).failed(status, f"{base} is")
    assert not (tmp_path / "adapter").exists()


def test_calibrate_takes_the_adapter_of_its_model_as_ask_does(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of SmolLM2, whatever the model."""
    asked: list[tuple[str, str]] = []

    def recalibrate(given: Any, model: str, *_: Any, **__: Any) -> None:
        asked.append((given.folder, model))
        raise TrainingError("far enough")

    monkeypatch.setattr("kblam.training.calibration_run.recalibrate", recalibrate)
    options = ["-o", str(tmp_path / "adapter"), "-k", str(base)]
    (tmp_path / "other").mkdir()
    refused = kblam("calibrate", *options, "--model", str(tmp_path / "other"))
    refused.failed(2, "--adapter is missing")
    asked_so = kblam("ask", "what is it?", "-k", str(base), "--model", str(tmp_path / "other"))
    assert refused.stderr == asked_so.stderr, "in the same words"
    (tmp_path / "other" / "kblam.json").write_text("{}")
    kblam("calibrate", *options, "--model", str(tmp_path / "other")).failed(
        2, "calibrate the adapter in it", f"--adapter {tmp_path / 'other' / 'adapter'}"
    )
    assert asked == []
    monkeypatch.setattr(
        "kblam.adapter.KnowledgeAdapter.from_pretrained",
        lambda folder: SimpleNamespace(folder=str(folder), config=SimpleNamespace(encoder=None)),
    )
    monkeypatch.setattr("kblam.adapter.fresh.looks_untrained", lambda adapter: False)
    for named in ([], ["--model", "smollm2"], ["--model", "tiny"]):
        kblam("calibrate", *options, *named).failed(2, "far enough")
    smollm2, tiny = (str(SMOLLM2_ADAPTER), "smollm2"), (str(DEMO / "adapter"), str(DEMO / "model"))
    assert asked == [smollm2, smollm2, tiny]


def test_an_adapter_of_another_encoder_is_told_with_the_names_of_both(base: Path, tmp_path: Path) -> None:
    shipped, here, stand_in = "encoder minilm (", f"here is {HashingEncoder(EMBEDDING_DIM).spec} (", HashingEncoder(8)
    kblam("calibrate", "-o", tmp_path / "adapter", "-k", base).failed(2, shipped, here)
    of_eval = kblam("eval", "--model", "smollm2", "--sizes", "60")
    of_eval.failed(2, shipped, f"was built with {stand_in.spec} (", "or without --kb name that with --encoder")


@pytest.mark.parametrize("place", ["material.gather", "run.save_checkpoint"], ids=["before stage 1", "after it"])
def test_where_the_disk_was_full_a_run_goes_on_as_it_is_told_to(
    place: str, prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    prepared()
    options = ["-o", str(tmp_path / "adapter"), "--cache", str(tmp_path / "vectors"), *flags()]
    with monkeypatch.context() as patched:
        patched.setattr(f"kblam.training.{place}", full)
        stopped = kblam("train", *options)
    assert stopped.status == 1
    assert "No space left on device; make room, and run the command again with --resume" in stopped.stderr
    kblam("train", *options, "--resume").ok()


def test_two_calibrations_do_not_write_into_one_folder(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    adapter = KnowledgeAdapter(AdapterConfig.for_model(tiny_model().config, EMBEDDING_DIM, base_model="tiny"))
    adapter.save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr("kblam.adapter.fresh.looks_untrained", lambda adapter: False)
    options = ["-a", str(tmp_path / "adapter"), "-k", str(base), "-o", str(tmp_path / "new")]

    def recalibrate(*_: Any, **__: Any) -> Any:
        if not seen:
            seen.append("in use")
            told = "another command writes the folder", "now; wait for its end, or choose another place"
            kblam("calibrate", *options).failed(1, *told)
            (tmp_path / "new").mkdir()
            (tmp_path / "new" / "mine").touch()  # of somebody who does not ask
        return adapter, SimpleNamespace(known_above=0.5, precision=1.0, recall=1.0, top1=1.0, questions=20)

    monkeypatch.setattr("kblam.training.calibration_run.recalibrate", recalibrate)
    kblam("calibrate", *options).failed(1, "something has come there meanwhile, and stays; choose another place")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mine"]
    (tmp_path / "new" / "mine").unlink()
    (tmp_path / "new").rmdir()
    kblam("calibrate", *options).ok()
    assert {path.name for path in tmp_path.iterdir()} == {"adapter", "new", "facts.kb"}


def test_a_run_and_then_other_thresholds(
    prepared: Callable[..., Material], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, vectors = tmp_path / "adapter", str(tmp_path / "vectors")
    done = kblam("train", "-o", str(adapter), "--cache", vectors, *flags()).ok()
    assert "takes about 1 minute, " in done.stderr
    assert "known above" in done.stderr
    assert KnowledgeAdapter.from_pretrained(adapter).config.known_above is not None
    kblam("train", "-o", str(adapter), "--cache", vectors, *flags()).failed(
        2, "holds a run already; pass --resume, or another --output"
    )
    resumed = kblam("train", "-o", str(adapter), "--cache", vectors, *flags(learning_rate=0.5), "--resume")
    assert resumed.status == 2
    assert "other settings: --learning_rate was 0.0012, is 0.5" in resumed.stderr

    material = prepared()
    quick = functools.partial(calibration_run.recalibrate, **small_head())
    monkeypatch.setattr(calibration_run, "recalibrate", quick)
    monkeypatch.setattr(calibration_run, "load_base", lambda name, **options: material.model)
    monkeypatch.setattr(calibration_run, "load_tokenizer", lambda name: material.texts.tokenizer)
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda spec="", **options: HashingEncoder(EMBEDDING_DIM))
    monkeypatch.setattr(
        "kblam.knowledge.knowledge_base.load_recorded_encoder", lambda spec, device: HashingEncoder(EMBEDDING_DIM)
    )
    kb, output = tmp_path / "facts.kb", tmp_path / "calibrated"
    facts = [Triple(f"Machine {index}", prop, f"{index} {prop}") for index in range(9) for prop in ("torque", "age")]
    with KnowledgeBase.create(kb, HashingEncoder(EMBEDDING_DIM)) as base:
        base.add(facts)
    options = ["-a", str(adapter), "-k", str(kb), "-o", str(output), "-n", "30", "--cache", vectors]
    assert "refusals right" in kblam("calibrate", *options).ok().stdout
    fresh, before = (KnowledgeAdapter.from_pretrained(folder) for folder in (output, adapter))
    assert fresh.config.confidence is not None
    kept = {name: value for name, value in fresh.state_dict().items() if not name.startswith("property_head.")}
    assert len(kept) == len(fresh.state_dict()) - 4, "only the property head is learned anew, from a base's own words"
    assert all((value == before.state_dict()[name]).all() for name, value in kept.items())
    kblam("calibrate", *options).failed(2, "is there already")
