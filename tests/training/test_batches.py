"""What a batch of stage 2 has: what an answer's tokens weigh, and rows for each forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kblam.data.batch import IGNORE
from kblam.data.entities import Entity
from kblam.errors import TrainingError
from kblam.knowledge import Triple
from kblam.training.batches import MOST_OF_VALUE, cut_values
from kblam.training.questions import Facts
from kblam.training.run import Trainer
from tests.training.conftest import Prepare, small, trainer_of


def test_the_values_count_in_full_where_no_pointer_copies_them(prepared: Prepare, tmp_path: Path) -> None:
    def batch_of(**changes: Any) -> Any:
        return trainer_of(prepared, tmp_path, **changes).builder.build(3).batch

    copied, said = batch_of(), batch_of(pointer=False)
    assert torch.equal(copied.labels, said.labels)
    changed = copied.weight != said.weight
    assert changed.any()
    assert torch.allclose(said.weight[changed], 10 * copied.weight[changed])
    tokens = (said.labels != IGNORE).sum(1, keepdim=True)
    first = torch.arange(said.labels.shape[1]) == said.first[:, None]
    others = (said.labels != IGNORE) & ~first
    assert torch.allclose(said.weight[others], (1 / tokens).expand_as(said.weight)[others]), "all others count alike"


def test_fewer_entities_than_forward_passes_are_refused_before_any_step(prepared: Prepare, tmp_path: Path) -> None:
    few: dict[str, Any] = {"train_entities": 3, "calibration_entities": 1, "gradient_accumulation_steps": 4}
    with pytest.raises(TrainingError, match=r"about \d entities in 4 forward passes a step.*train_entities"):
        trainer_of(prepared, tmp_path / "out", **few)
    assert not (tmp_path / "out").exists()
    trainer_of(prepared, tmp_path / "out", **few, max_steps=0)


LONG = " ".join(["metres", "of", "rope"] * 30)
OWN = [Triple(f"Machine {number}", "range", LONG) for number in range(3)]
OWN += [Triple(f"Machine {number}", "torque", "9 newton metres") for number in range(3)]


def of_own(prepared: Prepare, output: Path, said: list[str], **changes: Any) -> Trainer:
    config = small(pointer=False, train_entities=4, calibration_entities=3, **changes)
    return Trainer(config, prepared(triples=OWN, train_entities=4, calibration_entities=3), output, say=said.append)


def test_an_answer_has_its_end_unless_it_is_cut_within_a_value(prepared: Prepare, tmp_path: Path) -> None:
    trainer = of_own(prepared, tmp_path, [])
    texts = trainer.material.texts
    long = texts.tokenizer(f" {LONG}", add_special_tokens=False)["input_ids"]
    assert len(long) > MOST_OF_VALUE
    cut = whole = 0
    for step in range(30):
        batch = trainer.builder.build(step).batch
        for labels in batch.labels:
            answer = labels[labels != IGNORE].tolist()
            if answer[-MOST_OF_VALUE:] == long[:MOST_OF_VALUE]:
                cut += 1
                assert texts.end_id not in answer, "it would teach to end there"
            else:
                whole += 1
                assert answer.index(texts.end_id) == len(answer) - 1
                assert long[: MOST_OF_VALUE + 1] != answer[-MOST_OF_VALUE - 2 : -1]
    assert min(cut, whole) > 10


@pytest.mark.parametrize("tokens", [MOST_OF_VALUE, MOST_OF_VALUE + 1])
def test_a_value_of_as_many_tokens_as_are_kept_is_whole(tokens: int, prepared: Prepare, tmp_path: Path) -> None:
    texts = prepared().texts
    value = " ".join(["of"] * tokens)
    facts = Facts([Entity("Machine 7", {"range": value})])
    assert cut_values(facts, texts) == ([tokens] if tokens > MOST_OF_VALUE else [])


def test_values_that_are_cut_are_told_once_with_their_number(prepared: Prepare, tmp_path: Path) -> None:
    said: list[str] = []
    trainer = of_own(prepared, tmp_path, said, max_steps=2)
    trainer.fit()
    (told,) = (text for text in said if "tokens" in text)
    facts = len(trainer.material.train)
    assert told.startswith(
        f"of {facts} values 3 have more than 64 tokens (the longest 90): of such a one stage 2 teaches"
    )
    assert told.endswith("give shorter values, or leave pointer true")
    quiet: list[str] = []
    of_own(prepared, tmp_path / "none", quiet, max_steps=0)
    Trainer(small(), prepared(triples=OWN), tmp_path / "copied", say=quiet.append)
    trainer_of(prepared, tmp_path / "short", quiet, pointer=False)
    assert quiet == []
