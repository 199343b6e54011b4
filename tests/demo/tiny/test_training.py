"""The training code itself, on a small model: it learns, resumes exactly, and writes what can be loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from kblam.demo.tiny import assets
from kblam.demo.tiny import train as train_module
from kblam.demo.tiny.train import Trainer, train
from kblam.training.losses import Candidates, nearest_tokens
from tests.demo.tiny.small import tiny_cache, tiny_start, tiny_trainer, tiny_world

WORLD = tiny_world()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        yield tiny_cache(WORLD, tmp_path_factory.mktemp("cache"), patch)


@pytest.fixture(scope="module")
def begin(cache) -> Callable[[], Trainer]:
    """Makes trainers that begin alike."""
    start = tiny_start(WORLD, cache)
    return lambda: tiny_trainer(WORLD, cache, start)


@pytest.fixture(scope="module", autouse=True)
def _neighbours_once() -> Iterator[None]:
    """All trainers have the encoder's table; to find the neighbours of its tokens costs more than all their steps.

    Which they are decides nothing here, so they are found in a part of the table's width.
    """
    found: list[tuple[Tensor, int, Tensor]] = []

    def remembered(table: Tensor, count: int) -> Tensor:
        if not found:
            found.append((table, count, nearest_tokens(table[:, :32], count)))
        first, first_count, neighbours = found[0]
        assert torch.equal(table, first)
        assert count == first_count
        return neighbours

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_module, "nearest_tokens", remembered)
        yield


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As `python -m kblam.demo.tiny.train` runs: sums in one order give the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_three_steps_lower_the_loss_and_move_every_trained_weight(begin) -> None:
    trainer = begin()
    before = weights_of(trainer)
    losses = [sum(trainer.step(0).values()) for _ in range(3)]
    assert losses[2] < losses[0]
    after = weights_of(trainer)
    unmoved = {name for name, tensor in after.items() if torch.equal(tensor, before[name])}
    assert unmoved == {"base.model.embed_tokens.weight", "base.lm_head.weight"}


def test_a_resumed_run_repeats_an_unbroken_one(begin, tmp_path, one_thread) -> None:
    console = Console(quiet=True)
    unbroken = begin()
    train(unbroken, tmp_path / "unbroken", console, stop=2)
    broken = begin()
    train(broken, tmp_path / "broken", console, stop=1)
    resumed = begin()
    train(resumed, tmp_path / "broken", console, resume=True, stop=2)
    expected = weights_of(unbroken)
    for name, tensor in weights_of(resumed).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_run_killed_while_it_saves_keeps_the_checkpoint_before(begin, tmp_path, monkeypatch) -> None:
    console, trainer, checkpoint = Console(quiet=True), begin(), tmp_path / "checkpoint.pt"
    train(trainer, tmp_path, console, stop=1)
    before = checkpoint.read_bytes()

    def killed(state: object, path: Path) -> None:
        path.write_bytes(before[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(trainer, tmp_path, console, resume=True, stop=2)
    assert checkpoint.read_bytes() == before


def test_what_is_saved_gives_the_trained_models_logits(begin, cache, tmp_path) -> None:
    trainer = begin()
    trainer.step(0)
    (batch,) = trainer.builder.build(24)
    tokens = torch.arange(len(trainer.tokenizer))
    with torch.no_grad():
        embeddings = trainer.model.embedding(tokens)
        hidden, _ = trainer.forward(trainer.project(batch), batch, embeddings[batch.input_ids])
        expected = hidden @ embeddings.T
    vectors = cache.vectors.float()
    assets.save(trainer.model, trainer.tokenizer, tmp_path)
    demo = assets.load(tmp_path)
    projected = demo.attachment.adapter.project(vectors[batch.key_rows], vectors[batch.value_rows])
    with torch.no_grad(), demo.attachment.using(projected, bias=batch.bias):
        logits = demo.model(batch.input_ids, attention_mask=batch.attention_mask).logits
    seen = batch.attention_mask
    error = (logits[seen] - expected[seen]).norm() / expected[seen].norm()
    assert error < 0.02  # the saved weights are bfloat16


def test_the_sampled_softmax_holds_every_token_it_must(begin) -> None:
    trainer = begin()
    parts = trainer.builder.build(24, 2)
    candidates = Candidates.draw(parts, trainer.neighbours[:, :4], 10, torch.Generator().manual_seed(0))
    assert len(candidates.tokens) < len(trainer.tokenizer)
    for batch in parts:
        assert bool((candidates.position[batch.input_ids] >= 0).all())
        assert bool((candidates.position[batch.labels[batch.labels >= 0]] >= 0).all())
    assert torch.equal(candidates.position[candidates.tokens], torch.arange(len(candidates.tokens)))
