"""A whole run: resumed, over two processes, in pieces; and what it writes."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kblam.adapter import KnowledgeAdapter
from kblam.data.batch import IGNORE
from kblam.errors import AdapterConfigError, TrainingError
from kblam.knowledge import Triple
from kblam.models import attach, attachment_of
from kblam.training import calibrate
from kblam.training import estimate as estimating
from kblam.training.calibrate import Case
from kblam.training.card import write_card
from kblam.training.checkpoints import checkpoints
from kblam.training.estimate import estimate
from kblam.training.retrieval import retrieval_scores
from kblam.training.run import Trainer
from tests.training.conftest import SETTLED, Prepare, Trained, small, trainer_of
from tests.training.curve import losses, same_curve
from tests.training.launch import WORKER, start_two
from tests.warm import ended, start

AS_LOW = "WARNING: the loss is as low with random knowledge"


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.adapter.state_dict().items()}


def are_last(weights: dict[str, torch.Tensor], output: Path) -> bool:
    """Whether the weights are, bit for bit, those of the last checkpoint of a run."""
    last = load_file(checkpoints(output)[-1][1] / "model.safetensors")
    return last.keys() == weights.keys() and all(torch.equal(value, weights[name]) for name, value in last.items())


def test_a_resumed_run_is_the_unbroken_one_bit_for_bit(prepared: Prepare, trained: Trained, tmp_path: Path) -> None:
    whole = trained()
    trainer_of(prepared, tmp_path / "broken").fit(stop_after=3)
    resumed = trainer_of(prepared, tmp_path / "broken")
    resumed.fit(resume=True)
    assert losses(tmp_path / "broken") == losses(whole)
    assert are_last(weights(resumed), whole)
    assert [step for step, _ in checkpoints(tmp_path / "broken")] == [3, 6]


def test_a_run_that_is_killed_goes_on_as_if_it_had_not_been(
    prepared: Prepare, cache: Path, tmp_path: Path, warm: None
) -> None:
    whole = trainer_of(prepared, tmp_path / "whole", max_steps=40)
    whole.fit()
    killed = tmp_path / "killed"
    # As many threads as here: their number is in the last bits of a sum.
    threads = str(torch.get_num_threads())
    worker = start("-m", WORKER, cache, killed, "max_steps=40", OMP_NUM_THREADS=threads)
    while not checkpoints(killed):
        assert worker.is_alive(), "it ended before its first checkpoint"
        time.sleep(0.02)
    worker.kill()
    assert ended(worker) == -signal.SIGKILL
    done = checkpoints(killed)[-1][0]
    assert done < 40
    resumed = trainer_of(prepared, killed, max_steps=40)
    resumed.fit(resume=True)
    assert losses(killed)[-(40 - done) :] == losses(tmp_path / "whole")[done:]
    assert all(torch.equal(value, weights(resumed)[name]) for name, value in weights(whole).items())


def test_stage_one_is_there_whole_or_not_at_all(prepared: Prepare, tmp_path: Path, monkeypatch: Any) -> None:
    trainer = trainer_of(prepared, tmp_path / "run")

    def half(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(trainer.adapter, "save_pretrained", half)
        with pytest.raises(KeyboardInterrupt):
            trainer.fit()
    trainer_of(prepared, tmp_path / "run").fit(resume=True)
    assert len(losses(tmp_path / "run")) == 6


def test_a_model_folder_is_recorded_so_that_it_is_found_from_anywhere(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "qwen").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = prepared(model="models/qwen").adapter_config
    assert config.base_model == str(tmp_path.resolve() / "models" / "qwen")


def test_random_knowledge_is_no_knowledge(prepared: Prepare, tmp_path: Path) -> None:
    """The control sees vectors that belong to no fact of the batch."""
    trainer, given = trainer_of(prepared, tmp_path), []
    learner = lambda batch, keys, values, questions: given.append((keys, values)) or {"sentence": torch.ones(())}  # noqa: E731
    trainer._check(learner, 3)  # type: ignore[arg-type]
    (keys, values), (random_keys, random_values) = given
    for real, random in ((keys, random_keys), (values, random_values)):
        cosines = torch.nn.functional.normalize(real, dim=-1) @ torch.nn.functional.normalize(random, dim=-1).T
        assert real.shape == random.shape
        assert cosines.max() < 0.99


def test_a_knowledge_base_of_one_fact_can_be_learned(prepared: Prepare, tmp_path: Path) -> None:
    material = prepared(triples=[Triple("Machine 7", "torque", "9 newton metres")])
    trainer = Trainer(small(), material, tmp_path, say=[].append)
    for step in range(40):
        assert len(trainer.checker.build(step).questions) == 1


def test_accumulated_pieces_are_the_same_step(prepared: Prepare, trained: Trained, tmp_path: Path) -> None:
    pieces = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    trainer_of(prepared, tmp_path / "pieces", **SETTLED, **pieces).fit()
    assert same_curve(losses(trained(finish=True, **SETTLED)), losses(tmp_path / "pieces"))


def test_two_processes_take_the_same_steps(trained: Trained, cache: Path, tmp_path: Path, warm: None) -> None:
    settled = (f"{name}={value}" for name, value in SETTLED.items())
    workers = start_two(cache, tmp_path / "two", "per_device_train_batch_size=2", *settled)
    assert [*map(ended, workers)] == [0, 0]
    one, two = losses(trained(finish=True, **SETTLED)), losses(tmp_path / "two")
    assert len(one) == 6
    assert same_curve(one, two)


def a_minute_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes up a clock, and a device that each step takes a minute."""
    clock, queued = [0.0], [0.0]

    def backward(loss: torch.Tensor) -> None:
        queued[0] += 60

    def wait(device: torch.device) -> None:
        clock[0] += queued[0]
        queued[0] = 0

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr("kblam.training.estimate._wait", wait)
    monkeypatch.setattr("kblam.training.estimate.time", SimpleNamespace(monotonic=lambda: clock[0]))


def test_an_estimate_waits_for_what_it_times(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU computes long after the calls return."""
    trainer = trainer_of(prepared, tmp_path)
    a_minute_a_step(monkeypatch)
    assert estimate(trainer).startswith("stage 1 takes about 6 minutes, stage 2 takes about 6 minutes, ")


def test_an_estimate_is_of_what_a_run_that_goes_on_has_left(
    prepared: Prepare, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_of(prepared, tmp_path / "begun", max_steps=0).fit()
    trainer_of(prepared, tmp_path / "half").fit(stop_after=4)
    shutil.copytree(trained(), tmp_path / "done")
    a_minute_a_step(monkeypatch)
    told = [
        estimate(trainer_of(prepared, tmp_path / name)).partition("the confidence")[0]
        for name in ("begun", "half", "done")
    ]
    assert told == ["stage 2 takes about 6 minutes, and then ", "stage 2 takes about 2 minutes, and then ", ""]


def test_only_what_is_not_the_cpu_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    for name in ("cpu", "cuda:1"):
        estimating._wait(torch.device(name))
    assert waited == [torch.device("cuda:1")]


def test_stage_one_of_another_run_is_not_taken(prepared: Prepare, tmp_path: Path) -> None:
    """Where stage 2 is left out there is no checkpoint to compare settings with."""
    trainer_of(prepared, tmp_path, max_steps=0).fit()
    with pytest.raises(TrainingError, match=r"retrieval is of a run with other settings: .*, seed was 4, is 5"):
        trainer_of(prepared, tmp_path, max_steps=0, seed=5).fit(resume=True)
    (tmp_path / "retrieval" / "state.json").write_text("{")
    with pytest.raises(TrainingError, match=r"retrieval is damaged: .*; delete that folder, and stage 1 is done again"):
        trainer_of(prepared, tmp_path, max_steps=0).fit(resume=True)


def test_a_question_with_nothing_to_find_teaches_nothing(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one entity all is hidden: the place of its fact with no mass looked like a hit that was wrong."""
    material = prepared(triples=[Triple("Machine 7", "torque", "9 newton metres")])
    trainer = Trainer(small(), material, tmp_path / "run", say=lambda text: None)
    learned: list[Case] = []

    def learn(cases: list[Case]) -> Any:
        learned.extend(cases)
        return whole(cases)

    whole = calibrate.learn
    monkeypatch.setattr(calibrate, "learn", learn)
    trainer.finish()
    assert len(learned) > len(material.calibration.asked)
    assert min(one.mass for case in learned for one in case.signs) > 0
    assert any(not case.signs and case.right is None and not case.is_known for case in learned)


def test_what_a_run_writes_is_an_adapter_that_takes_vectors_as_they_come(prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path)
    trainer.fit()
    inside = KnowledgeAdapter(trainer.material.adapter_config)
    trainer.finish()
    inside.load_state_dict(trainer.adapter.state_dict())
    write_card(trainer, 60.0)
    text = (tmp_path / "README.md").read_text()
    assert "base_model:" not in text, "the hub has none of that name"
    assert "These are no test figures" in text
    adapter = KnowledgeAdapter.from_pretrained(tmp_path)
    assert trainer.calibration is not None
    assert adapter.config.known_above == trainer.calibration.known_above
    assert adapter.config.base_signature is not None
    # In float64: a key is normalised, so that one of nearly nothing shows the last bits of 32.
    draw = torch.Generator().manual_seed(0)
    raw = torch.randn(5, adapter.config.embedding_dim, generator=draw, dtype=torch.float64)
    scaled = raw * trainer.material.vectors.scale
    as_it_is, inside = copy.deepcopy(adapter).double(), inside.double()
    near = {"rtol": 1e-5, "atol": 1e-5}
    for layer in adapter.config.knowledge_layers:
        ours, theirs = as_it_is.question_part(layer, raw), inside.question_part(layer, scaled)
        torch.testing.assert_close(ours, theirs, **near)
    torch.testing.assert_close(as_it_is.project_keys(raw), inside.project_keys(scaled), **near)
    torch.testing.assert_close(as_it_is.project_values(raw), inside.project_values(scaled), **near)
    assert attachment_of(trainer.material.model) is None
    attach(trainer.material.model, adapter)


@pytest.mark.parametrize("bf16", [True, False])
def test_every_step_is_in_the_precision_of_the_run(
    bf16: bool, prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = set[Any]()
    monkeypatch.setattr("kblam.training.retrieval.retrieval_scores", watch_autocast(taken, retrieval_scores))
    trainer = trainer_of(prepared, tmp_path, bf16=bf16, retrieval_steps=1, max_steps=0)
    estimate(trainer)
    trainer.fit()
    assert taken == {bf16}


def watch_autocast(taken: set[Any], real: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: (taken.add(torch.is_autocast_enabled("cpu")), real(*arguments))[1]


def test_an_estimate_changes_nothing(prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path)
    before = weights(trainer)
    one = "takes about 1 minute, "
    assert (
        estimate(trainer)
        == f"stage 1 {one}stage 2 {one}and then the confidence some minutes, on this machine as it is now"
    )
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in before.items())
    assert all(weight.grad is None for weight in trainer.adapter.parameters())


def test_the_plain_recipe_trains_without_the_question(prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path, question_head=None, retrieval_steps=0, pointer=False)
    trainer.fit()
    adapter = trainer.finish()
    assert adapter.config.question_head is None
    assert len(losses(tmp_path)) == 6


def test_the_base_model_does_not_change(prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path)
    before = {name: value.clone() for name, value in trainer.material.model.state_dict().items()}
    trainer.fit()
    assert all(torch.equal(value, before[name]) for name, value in trainer.material.model.state_dict().items())


def test_a_loss_that_falls_without_knowledge_is_told(prepared: Prepare, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("kblam.training.run._CONTROL_AFTER", 1)
    said: list[str] = []
    # The tiny model knows nothing, with or without knowledge.
    trainer_of(prepared, tmp_path, said).fit()
    assert any(AS_LOW in text for text in said)


@pytest.mark.parametrize(
    ("step", "control", "is_told"), [(100, 1.0, True), (100, 1.04, True), (100, 1.06, False), (99, 1.0, False)]
)
def test_a_loss_is_not_said_to_fall_without_knowledge_before_it_can_be_known(
    prepared: Prepare, tmp_path: Path, step: int, control: float, is_told: bool
) -> None:
    """Random knowledge has to be a twentieth worse, after the first steps."""
    said: list[str] = []
    sentences = iter([1.0, control])
    trainer = trainer_of(prepared, tmp_path, said)
    trainer._check(lambda *_: {"sentence": torch.tensor(next(sentences))}, step)  # type: ignore[arg-type]
    assert any("  held out: " in text for text in said)
    assert any(AS_LOW in text for text in said) == is_told


def test_labels_are_answers_only_and_the_true_triple_is_anywhere(prepared: Prepare, tmp_path: Path) -> None:
    trainer = trainer_of(prepared, tmp_path)
    places = set()
    for step in range(30):
        batch = trainer.builder.build(step).batch
        for row, first in enumerate(batch.first.tolist()):
            assert (batch.labels[row, :first] == IGNORE).all()
            assert batch.labels[row, first] != IGNORE
        assert batch.bias[batch.evidence[:, 0], batch.evidence[:, 2]].eq(0).all()
        places |= set(batch.evidence[:, 2].tolist())
        assert (batch.refused | torch.isin(torch.arange(len(batch.first)), batch.evidence[:, 0])).all()
    assert len(places) > 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": [0, 99], "evidence_layer": 0}, "layers must be different layers of 0"),
        ({"layers": None, "evidence_layer": 99}, "evidence_layer 99 is not a knowledge layer"),
        ({"question_hidden_dim": 2**30}, "question_hidden_dim must be at most"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_what_the_model_does_not_have_is_refused_before_anything_is_encoded(
    changes: dict[str, Any], message: str, prepared: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.training.material.Vectors", lambda *_: pytest.fail("it encodes"))
    with pytest.raises(AdapterConfigError, match=message):
        prepared(**changes)


def test_own_triples_are_learned_and_decide_the_threshold(prepared: Prepare, tmp_path: Path) -> None:
    own = [Triple(f"Machine {index}", prop, f"{index} {prop}") for index in range(12) for prop in ("torque", "weight")]
    material = prepared(triples=own)
    assert material.own
    assert material.checks.identities == material.calibration.facts.identities
    assert material.checks.identities == [(one.name, one.property) for one in own]
    assert set(material.checks.identities) <= set(material.train.identities)
    trainer = Trainer(small(), material, tmp_path, say=[].append)
    trainer.fit()
    trainer.finish()
    write_card(trainer, 1.0)
    card = (tmp_path / "README.md").read_text()
    assert "synthetic facts about 52 entities, the user's own triples among them" in card
    assert "(the user's own triples, which training had too)" in card
    assert "held out" not in card
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "own" in line] == [3, 6]
    assert not any("held_out" in line for line in lines)
