"""What a training run is: model, adapter, two stages. Names are those of transformers' TrainingArguments."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from kblam.adapter.config import ANSWER, QUESTION_HEADS, REFUSAL
from kblam.errors import TrainingConfigError, argument
from kblam.training.properties import QUESTIONS, STEPS
from kblam_kernels.tools.env import quick_dtype

CALIBRATION_QUESTIONS = 600
ENCODER = "minilm"  # where nothing says another
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
    encoder: str | None = _help(
        "sentence encoder, as `kblam kb build --encoder` takes it; default: that of --kb, else minilm", None
    )
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
    unanswerable: float = _help("share of the questions of stage 2 without an answer", 0.4)
    # Stage 1: question and key projections, without the language model
    retrieval_steps: int = _help("steps of stage 1; 0 leaves it out", 1500)
    retrieval_learning_rate: float = _help("peak, of stage 1", 2e-3)
    retrieval_batch_size: int = _help("questions a step of stage 1", 96)
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
    learning_rate: float = _help("peak, of stage 2", 1.2e-3)
    projection_rate: float = _help("factor of that rate for what stage 1 trained", 0.1)
    per_device_train_batch_size: int = _help("rows in one forward pass of one process, in stage 2", 16)
    gradient_accumulation_steps: int = _help("forward passes a step of stage 2", 1)
    triples: int = _help("knowledge base of one step of stage 2", 120)
    virtual_triples: int = _help("largest size that distractors are weighted to imitate, in either stage", 16000)
    lr_scheduler_type: str = _help(
        "of stage 2: cosine, linear or constant, after the warm-up; as transformers names them", "cosine"
    )
    warmup_steps: int = _help("of either stage", 30)
    weight_decay: float = _help("AdamW's, in stage 2", 0.0)
    adam_beta1: float = _help("AdamW's, in stage 2", 0.9)
    adam_beta2: float = _help("AdamW's, in stage 2", 0.98)
    max_grad_norm: float = _help("gradients of stage 2 are clipped to this norm", 1.0)
    bf16: bool | None = _help(
        "the frozen model in bfloat16, and products of stage 1 (the adapter's weights stay float32); null: where the "
        "device multiplies it",
        None,
    )
    # The run
    save_steps: int = _help("a checkpoint-N folder every so many steps of stage 2", 100)
    save_total_limit: int = _help("checkpoints that are kept", 2)
    logging_steps: int = _help("a line of figures every so many steps; of stage 1 every ten times as many", 10)
    eval_steps: int = _help("held-out figures every so many steps of stage 2", 100)
    report_to: str = _help("none or tensorboard", "none")

    def __post_init__(self) -> None:
        if isinstance(self.layers, list):  # YAML has lists
            object.__setattr__(self, "layers", tuple(self.layers))
        if self.max_steps is None:
            # With both no figure was better for it: docs/log/adapter.md.
            is_needed = not (self.retrieval_steps and self.pointer)
            object.__setattr__(self, "max_steps", _STEPS if is_needed else 0)
        for name, rule in _RULES.items():
            if not rule.holds(value := getattr(self, name)):
                raise TrainingConfigError(f"{setting(name)} must be {rule.words}; got {value!r}")
        if self.layers is not None and self.evidence_layer not in (None, *self.layers):
            raise TrainingConfigError(
                f"{setting('evidence_layer')} must be one of {setting('layers')} ({', '.join(map(str, self.layers))}), "
                f"or null; got {self.evidence_layer}"
            )
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
                data = yaml.load(Path(path).read_text(encoding="utf-8"), _EachOnce)  # a safe loader
            except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
                raise TrainingConfigError(f"cannot read the training config {path}: {_reason(error)}") from error
            if not isinstance(data, dict):
                raise TrainingConfigError(f"{path} is not a training config: it holds no `name: value` lines")
        data = {**data, **changes}
        known = {f.name: f.type for f in dataclasses.fields(cls)}
        if unknown := sorted(map(str, set(data) - known.keys())):
            shown = ", ".join(_with_nearest(name, known) for name in unknown)
            raise TrainingConfigError(
                f"unknown names in the training config: {shown}; `kblam train --settings` lists those that are known"
            )
        return cls(**{name: number_of(value) if known[name] == "float" else value for name, value in data.items()})


def number_of(value: Any) -> Any:
    """The number that a text is: YAML takes 1e-3 for a text, since it has no point."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _reason(error: Exception) -> str:
    """What is wrong, of YAML with its line and without the picture that it draws."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return getattr(error, "strerror", None) or str(error)


def _with_nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


class _EachOnce(yaml.SafeLoader):
    """Reads YAML in which a name may stand once only, so that no line of a config is passed over."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} stands there twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


# Of the synthetic world, for training; calibration draws from those after them.
MOST_ENTITIES = 20_000
SCHEDULES = ("cosine", "linear", "constant")


class _Rule(NamedTuple):
    """What a value must be, as a test and in words."""

    holds: Callable[[Any], bool]
    words: str


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_layers(value: Any) -> bool:
    if not isinstance(value, tuple) or not value or not all(_is_whole(layer, 0) for layer in value):
        return False
    return list(value) == sorted(set(value))


def _whole(least: int) -> _Rule:
    return _Rule(lambda value: _is_whole(value, least), f"a whole number of at least {least}")


def _one_of(*choices: str | bool | None) -> _Rule:
    said = {None: "null", True: "true", False: "false"}
    words = [said[one] if one is None or isinstance(one, bool) else one for one in choices]
    return _Rule(
        # 1 is not true.
        lambda value: any(value is one or (isinstance(one, str) and value == one) for one in choices),
        " or ".join(words) if len(words) < 3 or None in choices else f"one of {', '.join(words)}",
    )


_TEXT = _Rule(_is_text, "a text that is not empty")
_TEXT_OR_NONE = _Rule(lambda value: value is None or _is_text(value), "a text that is not empty, or null")
_POSITIVE, _NOT_NEGATIVE = _whole(1), _whole(0)
_RATE = _Rule(lambda value: _is_number(value) and 0 < value < math.inf, "a number above 0")
_FACTOR = _Rule(lambda value: _is_number(value) and 0 <= value < math.inf, "a number of at least 0")
_SHARE = _Rule(lambda value: _is_number(value) and 0 <= value < 1, "a share of 0 .. 1")
_BETA = _Rule(lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
_MOST_SEED = 2**62
_ANSWER_PARTS = ("{property}", "{name}", "{value}")
# Of each field; what the model decides too, such as how many layers there are, is checked when it is loaded.
_RULES = {
    "model": _TEXT,
    "encoder": _TEXT_OR_NONE,
    "layers": _Rule(
        lambda value: value is None or _is_layers(value), "a list of ascending layers, such as [14, 18], or null"
    ),
    "evidence_layer": _Rule(lambda value: value is None or _is_whole(value, 0), "a layer, or null"),
    "question_head": _one_of(*QUESTION_HEADS, None),
    "question_hidden_dim": _POSITIVE,
    "pointer": _one_of(True, False),
    "prompt": _Rule(
        lambda value: value is None or (isinstance(value, str) and "{question}" in value),
        "a text with {question} in it, or null",
    ),
    "answer": _Rule(
        lambda value: isinstance(value, str) and all(value.count(part) == 1 for part in _ANSWER_PARTS),
        "a text with {property}, {name} and {value} in it, each once",
    ),
    "refusal": _TEXT,
    "seed": _Rule(lambda value: _is_whole(value, -_MOST_SEED) and value <= _MOST_SEED, "a whole number below 2**62"),
    "train_entities": _POSITIVE,
    "calibration_entities": _POSITIVE,
    "unanswerable": _SHARE,
    "retrieval_steps": _NOT_NEGATIVE,
    "retrieval_learning_rate": _RATE,
    "retrieval_batch_size": _POSITIVE,
    "retrieval_questions": _POSITIVE,
    "property_questions": _POSITIVE,
    "property_steps": _NOT_NEGATIVE,
    "calibration_questions": _POSITIVE,
    "max_steps": _NOT_NEGATIVE,
    "learning_rate": _RATE,
    "projection_rate": _FACTOR,
    "per_device_train_batch_size": _POSITIVE,
    "gradient_accumulation_steps": _POSITIVE,
    "triples": _POSITIVE,
    "virtual_triples": _POSITIVE,
    "lr_scheduler_type": _one_of(*SCHEDULES),
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _FACTOR,
    "adam_beta1": _BETA,
    "adam_beta2": _BETA,
    "max_grad_norm": _Rule(lambda value: _is_number(value) and value > 0, "a number above 0"),
    "bf16": _one_of(True, False, None),
    "save_steps": _POSITIVE,
    "save_total_limit": _POSITIVE,
    "logging_steps": _POSITIVE,
    "eval_steps": _POSITIVE,
    "report_to": _one_of("none", "tensorboard"),
}
