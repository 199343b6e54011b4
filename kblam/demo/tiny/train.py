"""Train the demo model from scratch: `python -m kblam.demo.tiny.train`, one command, one seed, CPU."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kblam.adapter import ProjectedKnowledge
from kblam.data.batch import IGNORE, Batch
from kblam.demo.tiny.assets import ASSETS, load, save
from kblam.demo.tiny.batches import BatchBuilder, Mixture
from kblam.demo.tiny.cache import EmbeddingCache
from kblam.demo.tiny.card import write_card
from kblam.demo.tiny.evaluate import evaluate
from kblam.demo.tiny.initialise import start_as_bag_of_words
from kblam.demo.tiny.model import EMBEDDING_DIM, DemoModel
from kblam.demo.tiny.tables import figures_table, write_metrics
from kblam.demo.tiny.tokenizer import build_tokenizer, real_words
from kblam.demo.tiny.world import World, build_world, world_words
from kblam.interrupts import leave
from kblam.knowledge import load_encoder
from kblam.knowledge.triples import key_text
from kblam.models import attach
from kblam.training.losses import (
    REFUSAL_WEIGHT,
    Candidates,
    answer_loss,
    evidence_loss,
    evidence_weight,
    nearest_tokens,
)
from kblam.whole import whole

CHECKPOINT_FOLDER = Path("build/demo-train")


@dataclass(frozen=True)
class Recipe:
    """The schedule; see docs/demo.md for what each number was measured against.

    First every answer spells out its key text, "the color of amber falcon is ...": writing the name right before
    the value teaches the evidence layer to ask for it. Then a shorter part with brief answers and many phrasings.
    """

    seed: int = 0
    steps: int = 1700
    finishing_steps: int = 2300
    warmup: int = 60
    learning_rate: float = 1.5e-3
    finishing_rate: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    triples: tuple[int, int] = (48, 256)  # from, to
    growth: float = 0.5  # share of the steps over which the knowledge base grows
    virtual: tuple[float, float] = (0.1, 0.35)  # shares of the steps between which the virtual size grows
    virtual_triples: int = 16000
    sample: int = 1500  # random tokens in each step's softmax
    neighbours: int = 8  # nearest tokens of each answer token in each step's softmax
    parts: int = 2  # of a batch, by the length of its rows
    first: Mixture = field(default_factory=lambda: Mixture(brief=False, varied=False))
    finishing: Mixture = field(default_factory=lambda: Mixture(virtual=0.7, near_miss_cap=4.0))
    checkpoint_every: int = 500
    report_every: int = 100
    check_every: int = 300

    @property
    def all_steps(self) -> int:
        return self.steps + self.finishing_steps

    def mixture_at(self, step: int) -> Mixture:
        return self.first if step < self.steps else self.finishing

    def triples_at(self, step: int) -> int:
        small, large = self.triples
        return small + round((large - small) * min(1.0, step / (self.growth * self.steps)))

    def virtual_at(self, step: int) -> int:
        """Largest virtual size: none at first, since retrieval must begin before it can be made robust."""
        grown = min(1.0, max(0.0, (step / self.steps - self.virtual[0]) / (self.virtual[1] - self.virtual[0])))
        return round(self.virtual_triples**grown)

    def rate_at(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to nothing: once for each of the two parts."""
        if step < self.steps:
            peak, length = self.learning_rate, self.steps
        else:
            peak, length, step = self.finishing_rate, self.finishing_steps, step - self.steps
        if step < self.warmup:
            return peak * (step + 1) / self.warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(1, length - self.warmup)))


class Trainer:
    """Model, optimizer and data of one run; `step(n)` does the n-th step.

    Everything random at step n follows from (seed, n), so that a resumed run repeats an unbroken one.
    """

    def __init__(self, recipe: Recipe, world: World, cache: EmbeddingCache, model: DemoModel) -> None:
        self.recipe = recipe
        self.model = model
        self.cache = cache
        self.tokenizer = build_tokenizer()
        self.builder = BatchBuilder(world, cache, self.tokenizer, seed=recipe.seed)
        self.attachment = attach(model.base, model.adapter)
        self.neighbours = nearest_tokens(model.embedding.table, recipe.neighbours)
        self.parameters = [p for name, p in model.named_parameters() if "embed_tokens" not in name]
        decayed = [p for p in self.parameters if p.dim() > 1]
        plain = [p for p in self.parameters if p.dim() <= 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    def project(self, batch: Batch) -> ProjectedKnowledge:
        """Knowledge tokens of a batch. Unit-norm vectors are scaled to unit variance, see `rescale_inputs`."""
        scale = math.sqrt(EMBEDDING_DIM)
        keys = self.cache.vectors[batch.key_rows].float() * scale
        values = self.cache.vectors[batch.value_rows].float() * scale
        return self.model.adapter.project(keys, values)

    def forward(self, projected: ProjectedKnowledge, batch: Batch, inputs: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Last hidden states (B, L, width), and what the evidence layer's attention was given and returned."""
        seen: dict[str, Any] = {}
        with (
            self.attachment.using(projected, bias=batch.bias),
            self.attachment.observing(seen.update),
            sdpa_kernel(SDPBackend.MATH),  # on CPU several times as fast for short masked rows
        ):
            output = self.model.base.model(inputs_embeds=inputs, attention_mask=batch.attention_mask, use_cache=False)
        return output.last_hidden_state, seen

    def losses(self, parts: list[Batch], candidates: Candidates) -> dict[str, Tensor]:
        """The loss terms of a batch in parts: means over all rows, evidence positions and refusals."""
        projected = self.project(parts[0])
        answer, retrieval, refusal = (torch.zeros(()) for _ in range(3))
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = self.model.embedding(candidates.tokens)
            for batch in parts:
                inputs = embeddings[candidates.position[batch.input_ids]]
                hidden, seen = self.forward(projected, batch, inputs)
                answer = answer + answer_loss(hidden, embeddings, batch, candidates)
                with torch.autocast("cpu", enabled=False):
                    terms = evidence_loss(seen["query"], seen["lse"], seen["knowledge"].key, batch, seen["scale"])
                    retrieval, refusal = retrieval + terms[0], refusal + terms[1]
        return {
            "answer": answer / sum(len(batch.labels) for batch in parts),
            "retrieval": retrieval / max(1.0, sum(float(evidence_weight(batch).sum()) for batch in parts)),
            "refusal": refusal / max(1, sum(int(batch.refused.sum()) for batch in parts)),
        }

    def step(self, number: int) -> dict[str, float]:
        """One optimizer step; the value of each loss term."""
        recipe = self.recipe
        self.builder.rng.seed(recipe.seed * 1_000_003 + number)
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + number)
        self.builder.mixture = recipe.mixture_at(number)
        parts = self.builder.build(recipe.triples_at(number), recipe.parts, recipe.virtual_at(number))
        candidates = Candidates.draw(parts, self.neighbours, recipe.sample, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(number)
        losses = self.losses(parts, candidates)
        total = losses["answer"] + losses["retrieval"] + REFUSAL_WEIGHT * losses["refusal"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, recipe.clip)
        self.optimizer.step()
        return {name: loss.item() for name, loss in losses.items()}

    @torch.no_grad()
    def check(self, builder: BatchBuilder, *, triples: int = 480, batches: int = 3) -> dict[str, float]:
        """Teacher-forced figures on the entities of `builder`: a quick look during training."""
        builder.rng.seed(1)
        everything = torch.arange(len(self.tokenizer))
        sums = dict.fromkeys(("exact", "answers", "retrieved", "refused", "refusals", "false"), 0)
        i_am_sorry = builder.tokenizer.encode("i", add_special_tokens=False)[0]
        for _ in range(batches):
            (batch,) = builder.build(triples)
            projected = self.project(batch)
            with torch.autocast("cpu", torch.bfloat16):
                embeddings = self.model.embedding(everything)
                hidden, seen = self.forward(projected, batch, embeddings[batch.input_ids])
                answer = batch.labels != IGNORE
                guess = torch.full_like(batch.labels, IGNORE)
                guess[answer] = (hidden[answer] @ embeddings.T).argmax(-1)
            exact = (guess == batch.labels).all(1)
            refuses = guess.gather(1, batch.first[:, None]).squeeze(1) == i_am_sorry
            keys = seen["knowledge"].key
            row, position, triple = batch.evidence.unbind(1)
            first = position == batch.first[row]
            scores = torch.einsum("rhd,hmd->rhm", seen["query"][row[first], :, position[first]].float(), keys.float())
            best = (scores * 0.125 + batch.bias[row[first]][:, None]).softmax(-1).sum(1).argmax(-1)
            sums["exact"] += int(exact[~batch.refused].sum())
            sums["answers"] += int((~batch.refused).sum())
            sums["retrieved"] += int((best == triple[first]).sum())
            sums["refused"] += int((refuses & batch.refused).sum())
            sums["refusals"] += int(batch.refused.sum())
            sums["false"] += int((refuses & ~batch.refused).sum())
        return {
            "exact": sums["exact"] / sums["answers"],
            "top1": sums["retrieved"] / sums["answers"],
            "recall": sums["refused"] / sums["refusals"],
            "false": sums["false"] / sums["answers"],
        }

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"step": step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, checkpoint: Path) -> int:
        """Takes a checkpoint up; returns the step to go on with."""
        state = torch.load(checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])


def held_out_builders(trainer: Trainer) -> dict[str, BatchBuilder]:
    """Builders over held-out entities and values: names of the grid, and names of unseen words."""
    world = trainer.builder.world
    parts = {
        "grid": World(world.test_grid, world.test_grid, [], []),
        "open": World(world.test_grid, world.test_open, [], []),
    }
    builders = {}
    for name, part in parts.items():
        mixture = Mixture(
            partial_view=0.0, virtual=0.0, whole_refusals=1.0, grid_batches=1.0 if name == "grid" else 0.0
        )
        builders[name] = BatchBuilder(part, trainer.cache, trainer.tokenizer, seed=1, mixture=mixture)
    return builders


def make_trainer(recipe: Recipe) -> Trainer:
    """The world, its embeddings (cached) and a model at its start."""
    torch.manual_seed(recipe.seed)
    world = build_world(real_words())
    entities = [*world.train, *world.test_grid, *world.test_open]
    keys = [key_text(entity.name, prop) for entity in entities for prop in entity.facts]
    cache = EmbeddingCache(keys + [value for entity in entities for value in entity.facts.values()])
    model = DemoModel(build_tokenizer(), encoder=load_encoder("minilm").fingerprint)
    start_as_bag_of_words(model, world, cache, build_tokenizer())
    return Trainer(recipe, world, cache, model)


def train(trainer: Trainer, folder: Path, console: Console, *, resume: bool = False, stop: int | None = None) -> None:
    """Runs the recipe, with a checkpoint in `folder` every now and then; `resume` goes on from the last one."""
    recipe = trainer.recipe
    checkpoint = folder / "checkpoint.pt"
    folder.mkdir(parents=True, exist_ok=True)
    start = trainer.load(checkpoint) if resume and checkpoint.exists() else 0
    builders = held_out_builders(trainer)
    began = time.perf_counter()
    sums: dict[str, float] = {}
    for step in range(start, recipe.all_steps if stop is None else min(stop, recipe.all_steps)):
        for name, loss in trainer.step(step).items():
            sums[name] = sums.get(name, 0.0) + loss
        done = step + 1
        if done % recipe.report_every == 0:
            terms = "  ".join(f"{name} {loss / recipe.report_every:.3f}" for name, loss in sums.items())
            console.print(f"step {done:5d}  {time.perf_counter() - began:6.0f} s  {terms}")
            sums = {}
        if done % recipe.check_every == 0 or done == recipe.all_steps:
            for name, builder in builders.items():
                figures = "  ".join(f"{key} {value:.3f}" for key, value in trainer.check(builder).items())
                console.print(f"            held out, {name}: {figures}")
        if done % recipe.checkpoint_every == 0 or done in (recipe.steps, recipe.all_steps, stop):
            with whole(checkpoint) as unfinished:
                torch.save(trainer.state(done), unfinished)


def publish(trainer: Trainer, folder: Path, console: Console, questions: int) -> None:
    """Writes the model, evaluates what was written, and writes figures and card beside it."""
    save(trainer.model, trainer.tokenizer, folder)
    demo = load(folder)
    rows = evaluate(demo, load_encoder("minilm"), questions, lambda name, _: console.print(f"evaluated: {name}"))
    console.print(figures_table(rows, f"{questions} held-out questions a row"))
    write_metrics(folder, rows)
    parameters = sum(p.numel() for module in (demo.model, demo.attachment.adapter) for p in module.parameters())
    recipe = trainer.recipe
    write_card(folder, rows, seed=recipe.seed, steps=recipe.all_steps, parameters=parameters, words=len(world_words()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--stop", type=int, help="stop after this step, as if interrupted; writes no model")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINT_FOLDER)
    parser.add_argument("--output", type=Path, default=ASSETS, help="folder for the model")
    parser.add_argument("--questions", type=int, default=400, help="for each row of the evaluation")
    arguments = parser.parse_args()
    console = Console(width=140, highlight=False)
    torch.set_num_threads(1)  # small matrices: more threads cost more than they bring
    trainer = make_trainer(Recipe(seed=arguments.seed))
    train(trainer, arguments.checkpoints, console, resume=arguments.resume, stop=arguments.stop)
    if arguments.stop is None:
        publish(trainer, arguments.output, console, arguments.questions)


if __name__ == "__main__":
    leave(main)
