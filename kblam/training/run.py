"""One training run from its config to an adapter folder: start, stage 1, stage 2, confidence, card."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from kblam.adapter import KnowledgeAdapter
from kblam.counts import many
from kblam.data.batch import Batch
from kblam.errors import TrainingError
from kblam.knowledge import Encoder
from kblam.knowledge.encoders.checked import encoded
from kblam.models import attach, detach
from kblam.models.prompt import prompt_ids
from kblam.training.batches import MOST_OF_VALUE, AskedBatch, BatchBuilder, cut_values
from kblam.training.calibrate import Calibration
from kblam.training.calibration_run import calibrated
from kblam.training.checkpoints import (
    RETRIEVAL_FOLDER,
    check_output,
    checkpoints,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_state,
    sole_run,
    whole_folder,
)
from kblam.training.config import TrainingConfig, setting
from kblam.training.language import Learner, counts_of, means_of, rows_of, total_loss
from kblam.training.log import RunLog, clock, in_words, means_over
from kblam.training.material import Material
from kblam.training.processes import check_accelerator, fsdp_of, start
from kblam.training.questions import Facts
from kblam.training.retrieval import RetrievalData, schedule, train_retrieval
from kblam.training.sharding import shard, share_held
from kblam.training.start import Measured, initialise, measure, rescale_inputs

Say = Callable[[str], None]
# Settings that a resumed run may change: they say nothing about the weights.
_FREE = ("save_steps", "save_total_limit", "logging_steps", "eval_steps", "report_to")
_PROMPTS_MEASURED = 64
_CONTROL_AFTER = 100  # steps
_CONTROL_MARGIN = 1.05


class Trainer:
    """A run: `fit` trains, `finish` writes the adapter.

    Args:
        config: of the run.
        material: made from it.
        output: folder of checkpoints, log and the adapter.
        accelerator: processes and gradient reduction; by default those that this process was launched with.
        say: told what a person should read.

    Raises:
        TrainingError: the launch asks for what is not served, FSDP cannot shard the base, or there are fewer entities
            to ask about than forward passes a step.
    """

    def __init__(
        self,
        config: TrainingConfig,
        material: Material,
        output: Path,
        accelerator: Accelerator | None = None,
        say: Say = print,
    ) -> None:
        config = config.on(material.model.device)
        self.config, self.material, self.output = config, material, output
        self.accelerator = start(material.model.device.type) if accelerator is None else accelerator
        check_accelerator(self.accelerator)
        self.say: Say = say if self.accelerator.is_main_process else lambda text: None
        self.is_sharded = self._shard_base()
        self.adapter = KnowledgeAdapter(material.adapter_config).to(material.model.device, torch.float32)
        self.rows = rows_of_step(config, self.accelerator)
        self._check_parts()
        self._tell_cut_values()
        self.builder = self._builder(material.train, config.unanswerable, config.seed)
        self.checker = self._builder(material.checks, config.unanswerable, config.seed + 1)
        self.began = time.monotonic()
        self.resumed = False
        self.calibration: Calibration | None = None
        # Other processes report nothing.
        is_main = self.accelerator.is_main_process
        self._records = RunLog(output, tensorboard=config.report_to == "tensorboard") if is_main else None

    def _check_parts(self) -> None:
        """A step asks each entity once at most, and a forward pass needs a row."""
        passes, processes = self.config.gradient_accumulation_steps, self.accelerator.num_processes
        found = len(self.material.train.entities)
        if self.config.max_steps and found < passes * processes:
            raise TrainingError(
                f"stage 2 asks about {found} entities in {passes * processes} forward passes a step "
                f"({setting('gradient_accumulation_steps')} {passes}, processes {processes}): give more triples or "
                f"{setting('train_entities')}, or fewer of these"
            )

    def _tell_cut_values(self) -> None:
        """Where a pointer copies the values, nothing is lost by that."""
        if self.config.pointer or not self.config.max_steps:
            return
        if cut := cut_values(self.material.train, self.material.texts):
            self.say(
                f"of {len(self.material.train):,} values {many(len(cut), 'has', 'have')} more than {MOST_OF_VALUE} "
                f"tokens (the longest {max(cut):,}): of such a one stage 2 teaches the first {MOST_OF_VALUE} and no "
                f"end, so without a pointer it will not be said whole; give shorter values, or leave "
                f"{setting('pointer')} true"
            )

    @property
    def run(self) -> dict[str, Any]:
        """The settings that decide the weights."""
        return {
            **lasting_settings(self.config, self.accelerator),
            **learned_from(self.material.train, self.material.encoder),
        }

    def fit(self, *, resume: bool = False, stop_after: int | None = None) -> None:
        """Both stages.

        Args:
            resume: go on from what `output` holds.
            stop_after: end stage 2 at this step, as if interrupted.

        Raises:
            TrainingError: `output` holds another run, a run and `resume` is not said, or anything else; or another run
                writes there now.
        """
        check_output(self.output, resume=resume)
        found = checkpoints(self.output)
        # All have looked before the first one writes.
        self.accelerator.wait_for_everyone()
        with self._alone():
            self.resumed = bool(found) or (resume and (self.output / RETRIEVAL_FOLDER).is_dir())
            if not found:
                self._stage_one(resume)
            self._stage_two(found[-1][1] if found else None, stop_after)

    # --- stage 1 ---------------------------------------------------------------------------------------------

    def _stage_one(self, resume: bool) -> None:
        before = self.output / RETRIEVAL_FOLDER
        if not (resume and before.is_dir()):
            prompts = [self._prompt(asked.text) for asked in self.material.asked[:_PROMPTS_MEASURED]]
            # In all processes: a sharded base computes in all of them or in none.
            measured = measure(self.material.model, self.material.adapter_config, prompts)
            if self.accelerator.is_main_process:
                self._train_retrieval(measured)
                with whole_folder(before) as fresh:
                    save_state(fresh, self.adapter, self.run)
        self.accelerator.wait_for_everyone()
        load_state(before, self.adapter, self.run)

    def _train_retrieval(self, measured: Measured) -> None:
        config = self.config
        self._go_on(1)
        initialise(self.adapter, measured, config.seed)
        if config.question_head is None or not config.retrieval_steps:
            return
        began = time.monotonic()

        def report(step: int, figures: dict[str, float]) -> None:
            if step % (10 * config.logging_steps) == 0 or step == config.retrieval_steps:
                left = (time.monotonic() - began) * (config.retrieval_steps / step - 1)
                self._log({"stage": 1, "step": step, **figures})
                self.say(f"retrieval {step}/{config.retrieval_steps}  {in_words(figures)}  {clock(left)} left")

        train_retrieval(
            self.adapter,
            self.retrieval_data(),
            measured,
            steps=config.retrieval_steps,
            learning_rate=config.retrieval_learning_rate,
            warmup=config.warmup_steps,
            bf16=config.bf16 is True,
            report=report,
        )

    def retrieval_data(self) -> RetrievalData:
        """What stage 1 learns from."""
        config, material = self.config, self.material
        return RetrievalData(
            material.train,
            material.asked,
            material.vectors,
            size=config.retrieval_batch_size,
            virtual_triples=config.virtual_triples,
            seed=config.seed,
        )

    # --- stage 2 ---------------------------------------------------------------------------------------------

    def _stage_two(self, checkpoint: Path | None, stop_after: int | None) -> None:
        config = self.config
        # The optimizer must see the weights at their last place.
        attachment = attach(self.material.model, self.adapter.train(), trainable=True)
        learner = Learner(self.adapter, attachment)
        optimizer = self._optimizer()
        start, seen = 0, list[dict[str, float]]()  # what the next line of figures is of
        if checkpoint is not None:
            start, seen = load_checkpoint(checkpoint, self.adapter, optimizer, self.run)
            self.say(f"going on from {checkpoint}")
        rates = [group["lr"] for group in self._optimizer().param_groups]
        prepared = self._replicated(learner)
        began, end = time.monotonic(), config.max_steps if stop_after is None else min(stop_after, config.max_steps)
        if start < end:
            self._go_on(2, start)
        for step in range(start, end):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step, config.max_steps, config.warmup_steps, config.lr_scheduler_type)
            seen.append(self._step(prepared, optimizer, step))
            done = step + 1
            if done % config.logging_steps == 0 or done == end:
                figures, seen = means_over(seen), []
                left = (time.monotonic() - began) / (done - start) * (config.max_steps - done)
                self._log({"stage": 2, "step": done, **figures})
                self.say(f"step {done}/{config.max_steps}  {in_words(figures)}  {clock(left)} left")
            if done % config.eval_steps == 0 or done == config.max_steps:
                self._check(learner, done)
            if (done % config.save_steps == 0 or done == end) and self.accelerator.is_main_process:
                save_checkpoint(self.output, done, self.adapter, optimizer, self.run, config.save_total_limit, seen)
            self.accelerator.wait_for_everyone()
        detach(self.material.model)

    def _step(self, learner: Any, optimizer: torch.optim.Optimizer, step: int) -> dict[str, float]:
        """One optimizer step; returns its figures, means over the whole batch of all processes, as `means_of`."""
        config, accelerator = self.config, self.accelerator
        asked = self.builder.build(step)
        counts = counts_of(asked.batch)
        parts = accelerator.num_processes * config.gradient_accumulation_steps
        sums: dict[str, Tensor] = {}
        optimizer.zero_grad(set_to_none=True)
        for micro in range(config.gradient_accumulation_steps):
            part = accelerator.process_index * config.gradient_accumulation_steps + micro
            last = micro == config.gradient_accumulation_steps - 1
            with nullcontext() if last or accelerator.num_processes == 1 else learner.no_sync():
                found = learner(*self.inputs(asked, part, parts))
                # Gradients are averaged over the processes, and the losses are parts of a sum.
                (total_loss(found, counts) * accelerator.num_processes).backward()
            for name, value in found.items():
                sums[name] = sums.get(name, torch.zeros((), dtype=torch.float32)) + value.detach().cpu()
        norm = torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), config.max_grad_norm)
        if not math.isfinite(float(norm)):
            raise TrainingError(
                f"the gradient of step {step + 1} is not finite; lower {setting('learning_rate')} "
                f"({config.learning_rate}) and start anew, in another folder"
            )
        optimizer.step()
        names = list(sums)
        summed = accelerator.reduce(torch.stack([sums[name] for name in names]).to(accelerator.device), "sum")
        found_sums = dict(zip(names, summed.tolist(), strict=True))
        return {
            "loss": float(total_loss({n: torch.tensor(v, dtype=torch.float32) for n, v in found_sums.items()}, counts)),
            **means_of(found_sums, counts),
        }

    def inputs(self, asked: AskedBatch, part: int, parts: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """What the learner takes, for one of so many equal parts of a batch's rows."""
        rows, device = len(asked.questions), self.material.model.device
        start, end = rows * part // parts, rows * (part + 1) // parts
        batch = rows_of(asked.batch, start, end)
        vectors = self.material.vectors
        questions = torch.from_numpy(encoded(self.material.encoder, asked.questions[start:end])) * vectors.scale
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(batch)
            if isinstance(value := getattr(batch, field.name), Tensor)
        }
        keys, values = vectors.at(batch.key_rows), vectors.at(batch.value_rows)
        return Batch(**moved), keys.to(device), values.to(device), questions.to(device)

    def _replicated(self, learner: Learner) -> Any:
        """The learner in the launch's precision, its gradients averaged over the processes."""
        if not self.is_sharded:
            return self.accelerator.prepare_model(learner, device_placement=False)
        # Prepared for training it would be sharded too, and the adapter is small.
        prepared = self.accelerator.prepare_model(learner, device_placement=False, evaluation_mode=True)
        device = self.accelerator.device
        return DistributedDataParallel(prepared, device_ids=None if device.type == "cpu" else [device])

    def _shard_base(self) -> bool:
        """Shards the base if the launch says so; returns whether it is."""
        plugin, processes, model = fsdp_of(self.accelerator), self.accelerator.num_processes, self.material.model
        if plugin is None:
            return False
        if processes == 1:
            self.say("FSDP: there is one process, which holds all of the base")
            return False
        reshard = bool(plugin.reshard_after_forward)
        shard(model, self.accelerator.device, processes, reshard_after_forward=reshard)
        self.say(f"FSDP: of the base's weights, {share_held(model):.0%} lie in each of {processes} processes")
        return True

    @torch.no_grad()
    def _check(self, learner: Learner, step: int) -> None:
        """Figures of a batch of the facts for checks, with its knowledge and with random knowledge."""
        if not (self.accelerator.is_main_process or self.is_sharded):  # a sharded base computes in all processes
            return
        asked = self.checker.build(0)
        counts = counts_of(asked.batch)
        batch, keys, values, questions = self.inputs(asked, 0, 1)
        figures = means_of({n: float(v) for n, v in learner(batch, keys, values, questions).items()}, counts)
        # Vectors of nothing: of any facts, were they shuffled, the right one would still be among them.
        draw = torch.Generator().manual_seed(step)
        noise = [
            torch.randn(vectors.shape, generator=draw, dtype=torch.float32).to(vectors.device)
            for vectors in (keys, values)
        ]
        random = learner(batch, *noise, questions)
        control = float(random["sentence"]) / max(1.0, counts["sentence"])
        # Of the user's own triples, which are learned from too, nothing is held out.
        name, shown = ("own", "own triples") if self.material.own else ("held_out", "held out")
        self._log({"stage": 2, "step": step, name: figures, "control_sentence": control})
        self.say(f"  {shown}: {in_words(figures)}  with random knowledge: sentence {control:.3f}")
        if step >= _CONTROL_AFTER and control < _CONTROL_MARGIN * figures["sentence"]:
            self.say(
                "  WARNING: the loss is as low with random knowledge, so it falls for another reason than the "
                "knowledge; look at top1 and mass before training on"
            )

    # --- the end ---------------------------------------------------------------------------------------------

    def finish(self) -> KnowledgeAdapter:
        """The adapter as users get it, written to `output`: takes vectors as they come, and knows when it knows.

        Raises:
            TrainingError: another run writes to `output` now.
        """
        with self._alone():
            return self._finish()

    def _finish(self) -> KnowledgeAdapter:
        material, config = self.material, self.config
        trained = copy.deepcopy(self.adapter)
        rescale_inputs(trained, material.vectors.scale)
        adapter, self.calibration = calibrated(
            trained,
            material.model,
            material.texts.tokenizer,
            material.calibration,
            property_steps=config.property_steps,
            seed=config.seed,
            say=self.say,
        )
        if self.accelerator.is_main_process:
            adapter.save_pretrained(self.output)
        self._go_on(3)
        self._log({"stage": 3, **dataclasses.asdict(self.calibration), "seconds": time.monotonic() - self.began})
        found = self.calibration
        self.say(
            f"known above a confidence of {found.known_above}: refusals right {found.precision:.3f}, "
            f"found {found.recall:.3f}; likeliest triple right {found.top1:.3f} ({found.questions} questions)"
        )
        return adapter

    def _optimizer(self) -> torch.optim.Optimizer:
        config, adapter = self.config, self.adapter
        learned = [*adapter.key_projector.parameters(), *adapter.question_trunk.parameters()]
        learned += list(adapter.question_heads.parameters())
        if config.question_head is None or not config.retrieval_steps:
            groups = [{"params": list(adapter.parameters()), "lr": config.learning_rate}]
        else:
            fresh = [*adapter.value_projector.parameters(), *adapter.query_heads.parameters()]
            groups = [
                {"params": learned, "lr": config.learning_rate * config.projection_rate},
                {"params": fresh, "lr": config.learning_rate},
            ]
        betas = (config.adam_beta1, config.adam_beta2)
        return torch.optim.AdamW(groups, betas=betas, weight_decay=config.weight_decay)

    def _builder(self, facts: Any, unanswerable: float, seed: int) -> BatchBuilder:
        return BatchBuilder(
            facts,
            self.material.vectors,
            self.material.texts,
            rows=self.rows,
            triples=self.config.triples,
            unanswerable=unanswerable,
            virtual_triples=self.config.virtual_triples,
            seed=seed,
        )

    def _prompt(self, question: str) -> list[int]:
        return prompt_ids(self.material.texts.prompt, question, self.material.texts.tokenizer)

    def _alone(self) -> AbstractContextManager[None]:
        """The output folder for this run alone; of several processes the main one writes there."""
        return sole_run(self.output) if self.accelerator.is_main_process else nullcontext()

    def _go_on(self, stage: int, after: int = 0) -> None:
        if self._records is not None:
            self._records.go_on(stage, after)

    def _log(self, record: dict[str, Any]) -> None:
        if self._records is not None:
            self._records.write(record)


def rows_of_step(config: TrainingConfig, accelerator: Accelerator) -> int:
    """Questions of one step of stage 2, of all processes."""
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * accelerator.num_processes


def lasting_settings(config: TrainingConfig, accelerator: Accelerator) -> dict[str, Any]:
    """What a resumed run must have too, of the config and of the launch."""
    precision = accelerator.mixed_precision
    return {
        **{name: value for name, value in config.to_dict().items() if name not in _FREE},
        "mixed_precision": None if precision == "no" else precision,
        "rows": rows_of_step(config, accelerator),
    }


def learned_from(facts: Facts, encoder: Encoder) -> dict[str, Any]:
    """What a resumed run must have too, of the data."""
    digest = hashlib.sha256("\0".join((*facts.key_texts, *facts.values)).encode("utf-8", "surrogatepass"))
    return {"facts": f"{len(facts)}, {digest.hexdigest()[:12]}", "vectors": encoder.fingerprint}
