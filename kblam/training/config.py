"""What a training run is: model, adapter, two stages. Names are those of transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from kblam.adapter.config import ANSWER, REFUSAL
from kblam.errors import TrainingConfigError, argument
from kblam.training.properties import QUESTIONS, STEPS
from kblam_kernels.tools.env import quick_dtype

CALIBRATION_QUESTIONS = 600
_STEPS = 500  # of stage 2, where nothing is said


def _help(text: str, default: Any) -> Any:
    return field(default=default, metadata={"help": text})


def setting(name: str) -> str:
    """A name of a config as the reader of a message writes it: a setting is a flag where `kblam train` runs."""
    known = {field.name for field in dataclasses.fields(TrainingConfig)}
    return argument(name, f"--{name}", ("train",), name) if name in known else name


@dataclass(frozen=True)
class TrainingConfig:
    """One training run; everything random in it follows from `seed`.

    Raises:
        TrainingConfigError: if a value is out of range.
    """

    # The model and the adapter
    model: str = _help("base model: folder, hub name, or 'smollm2'", "smollm2")
    encoder: str = _help("sentence encoder, as `kblam kb build --encoder` takes it", "minilm")
    layers: tuple[int, ...] | None = _help("knowledge layers; default: four in the upper half", None)
    evidence_layer: int | None = _help("the layer whose attention names triples; default: the first", None)
    question_head: str | None = _help("linear, mlp, or null for KBLaM's plain query", "mlp")
    question_hidden_dim: int = _help("width of an mlp question head's hidden layer", 768)
    pointer: bool = _help("answers copy the text of the triples they rest on", True)
    prompt: str | None = _help("template around {question}; default: the tokenizer's chat template", None)
    answer: str = _help("the sentence that says a fact", ANSWER)
    refusal: str = _help("what is said when the knowledge base has no answer", REFUSAL)
    # Data
    seed: int = _help("of everything random", 0)
    train_entities: int = _help("entities of the synthetic world", 8000)
    calibration_entities: int = _help("of them, kept for checks", 800)
    unanswerable: float = _help("share of questions without an answer", 0.4)
    # Stage 1: question and key projections, without the language model
    retrieval_steps: int = _help("steps of stage 1; 0 leaves it out", 1500)
    retrieval_learning_rate: float = _help("peak", 2e-3)
    retrieval_batch_size: int = _help("questions a step", 96)
    retrieval_questions: int = _help("different questions that stage 1 draws from", 24000)
    # The property head, beside both stages
    property_questions: int = _help('questions about "it" that the property head learns from', QUESTIONS)
    property_steps: int = _help("steps of the property head", STEPS)
    # The confidence, at the end
    calibration_questions: int = _help(
        "questions it is learned from, before each is asked again without its fact", CALIBRATION_QUESTIONS
    )
    # Stage 2: the whole adapter, through the frozen language model
    max_steps: int = _help(
        "steps of stage 2; 0 leaves it out; null: 500, or 0 where stage 1 and the pointer make it needless", None
    )
    learning_rate: float = _help("peak", 1.2e-3)
    projection_rate: float = _help("factor of the rate for what stage 1 trained", 0.1)
    per_device_train_batch_size: int = _help("rows in one forward pass of one process", 16)
    gradient_accumulation_steps: int = _help("forward passes a step", 1)
    triples: int = _help("knowledge base of one step", 120)
    virtual_triples: int = _help("largest size that distractors are weighted to imitate", 16000)
    lr_scheduler_type: str = _help(
        "cosine, linear or constant, after the warm-up; as transformers names them", "cosine"
    )
    warmup_steps: int = _help("of either stage", 30)
    weight_decay: float = _help("AdamW", 0.0)
    adam_beta1: float = _help("AdamW", 0.9)
    adam_beta2: float = _help("AdamW", 0.98)
    max_grad_norm: float = _help("gradients are clipped to this norm", 1.0)
    bf16: bool | None = _help(
        "the frozen model in bfloat16 (the adapter's weights stay float32); null: where the device multiplies it", None
    )
    # The run
    save_steps: int = _help("a checkpoint-N folder every so many steps", 100)
    save_total_limit: int = _help("checkpoints that are kept", 2)
    logging_steps: int = _help("a line of figures every so many steps", 10)
    eval_steps: int = _help("held-out figures every so many steps", 100)
    report_to: str = _help("none or tensorboard", "none")

    def __post_init__(self) -> None:
        if isinstance(self.layers, list):  # YAML has lists
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.max_steps is None:
            # With both no figure was better for it: docs/log/adapter.md.
            is_needed = not (self.retrieval_steps and self.pointer)
            object.__setattr__(self, "max_steps", _STEPS if is_needed else 0)
        if self.layers is not None and not isinstance(self.layers, tuple):
            raise TrainingConfigError(
                f"{setting('layers')} must be a list of layers, such as [14, 18], or null; got {self.layers!r}"
            )
        for name in _POSITIVE:
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise TrainingConfigError(
                    f"{setting(name)} must be a whole number of at least 1; got {getattr(self, name)!r}"
                )
        for name in ("retrieval_steps", "property_steps", "max_steps", "warmup_steps"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 0:
                raise TrainingConfigError(
                    f"{setting(name)} must be a whole number of at least 0; got {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "retrieval_learning_rate", "max_grad_norm"):
            if not isinstance(getattr(self, name), float | int) or not getattr(self, name) > 0:
                raise TrainingConfigError(f"{setting(name)} must be a number above 0; got {getattr(self, name)!r}")
        for name, allowed in (("pointer", (True, False)), ("bf16", (True, False, None))):
            if not any(getattr(self, name) is one for one in allowed):
                raise TrainingConfigError(
                    f"{setting(name)} must be true or false{' or null' if None in allowed else ''}; "
                    f"got {getattr(self, name)!r}"
                )
        if not 0 <= self.unanswerable < 1:
            raise TrainingConfigError(f"{setting('unanswerable')} must be a share of 0 .. 1; got {self.unanswerable}")
        if self.lr_scheduler_type not in SCHEDULES:
            raise TrainingConfigError(
                f"{setting('lr_scheduler_type')} must be one of {', '.join(SCHEDULES)}; got {self.lr_scheduler_type!r}"
            )
        if self.report_to not in ("none", "tensorboard"):
            raise TrainingConfigError(f"{setting('report_to')} must be none or tensorboard; got {self.report_to!r}")
        if self.train_entities > MOST_ENTITIES:
            raise TrainingConfigError(
                f"{setting('train_entities')} must be at most {MOST_ENTITIES:,}, since those after them are for "
                f"`kblam calibrate`; got {self.train_entities:,}"
            )
        if self.calibration_entities >= self.train_entities:
            raise TrainingConfigError(
                f"{setting('calibration_entities')} ({self.calibration_entities}) must be fewer than "
                f"{setting('train_entities')} ({self.train_entities})"
            )
        if self.question_head is None and self.retrieval_steps:
            raise TrainingConfigError(
                f"stage 1 trains the question head and there is none; set {setting('retrieval_steps')} to 0 or "
                f"{setting('question_head')} to mlp"
            )

    def on(self, device: torch.device | str) -> TrainingConfig:
        """The run with what depends on the device decided: a step in bfloat16 takes a processor without instructions
        for it twenty times as long as one in float32.
        """
        return self if self.bf16 is not None else dataclasses.replace(self, bf16=quick_dtype(device) is torch.bfloat16)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for YAML or JSON."""
        return {**dataclasses.asdict(self), "layers": None if self.layers is None else list(self.layers)}

    @classmethod
    def read(cls, path: str | Path | None, **changes: Any) -> TrainingConfig:
        """A run from a YAML (or JSON) file, with `changes` over it.

        Raises:
            TrainingConfigError: the file cannot be read, or holds a name or value that is not known.
        """
        data: Any = {}
        if path is not None:
            try:
                data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise TrainingConfigError(f"cannot read the training config {path}: {error}") from error
            if not isinstance(data, dict):
                raise TrainingConfigError(f"{path} is not a training config: it holds no `name: value` lines")
        data = {**data, **changes}
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(map(str, set(data) - known)):
            raise TrainingConfigError(
                f"unknown names in the training config: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        return cls(**data)


# Of the synthetic world, for training; calibration draws from those after them.
MOST_ENTITIES = 20_000
SCHEDULES = ("cosine", "linear", "constant")
_POSITIVE = (
    "train_entities",
    "calibration_entities",
    "retrieval_batch_size",
    "retrieval_questions",
    "property_questions",
    "calibration_questions",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "triples",
    "virtual_triples",
    "save_steps",
    "save_total_limit",
    "logging_steps",
    "eval_steps",
)
