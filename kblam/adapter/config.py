"""What an adapter is: its shapes and switches, stored as config.json beside the weights."""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass, field
from typing import Any

from kblam.adapter.confidence import Confidence
from kblam.adapter.signature import Signature
from kblam.errors import AdapterConfigError, KblamWarning

# 2: `layers`; 3: the question head, the pointer, the base model's signature; 4: `confidence`, without which an older
# kblam would take `known_above` for a mass; 5: `confidence.best`, and the likeliest triple is chosen by it; every layer
# in the base model's signature; 6: the property head, which the confidence reads, and `confidence.beaten`; 7:
# a property's words that a question says count in its share; 8: `property_cosine`, a weight that older ones do not
# know; 9: `property_layers`; 10: a share is compared with those of what the entity lacks, before with all.
FORMAT_VERSION = 10
_CONFIDENCE_FORMAT = 10  # of the signs that its weights are for
_COSINE_FORMAT = 8
_LAYERS_FORMAT = 9
_MOST_PROPERTY_LAYERS = 16
_DEEPEST = 2**12  # of encoders' layers
_MOST_BACKGROUND = 10_000
_LONGEST_PROPERTY = 400
# The least and the largest value of each field that counts something. A file may say any number; beyond these it is
# damaged or means harm, and memory and time are spent by them before there are weights to compare them with.
_COUNTS = {
    "embedding_dim": (1, 2**20),
    "hidden_size": (1, 2**20),
    "num_layers": (1, 2**12),
    "num_heads": (1, 2**12),
    "head_dim": (1, 2**14),
    "layer_frequency": (1, 2**31),
    "mlp_depth": (0, 2**10),
    "mlp_hidden_dim": (0, 2**20),
    "question_hidden_dim": (0, 2**20),
    "property_width": (0, 2**16),
    "format_version": (1, math.inf),
}
_TEXTS = ("projector", "answer", "refusal")
_TEXTS_OR_NONE = ("question_head", "encoder", "base_model", "prompt")
_SWITCHES = ("separate_query_head", "pointer", "property_cosine")
_NUMBERS_OR_NONE = ("knowledge_scale", "known_above")
PROJECTORS = ("linear", "mlp", "identity")
QUESTION_HEADS = ("linear", "mlp")
# Upstream's refusal sentence: what its adapters are trained to say.
REFUSAL = "I am sorry I cannot find relevant information in the KB."
ANSWER = "The {property} of {name} is {value}."


def _help(text: str, **kwargs: Any) -> Any:
    return field(metadata={"help": text}, **kwargs)


@dataclass(frozen=True)
class AdapterConfig:
    """Shapes and switches of a knowledge adapter (KBLaM, arXiv 2410.10450, section 4).

    Raises:
        AdapterConfigError: if a value is out of range or two do not fit together.
    """

    embedding_dim: int = _help("P, width of the sentence embeddings")
    hidden_size: int = _help("width of the model's hidden states, the input of the query heads")
    num_layers: int = _help("decoder layers of the model")
    num_heads: int = _help("query heads of the model; knowledge has one head for each")
    head_dim: int = _help("width of one head")
    layer_frequency: int = _help("every how many layers one sees knowledge: layer % frequency == 0", default=3)
    layers: tuple[int, ...] | None = _help(
        "the layers that see knowledge, ascending, in place of every layer_frequency-th", default=None
    )
    projector: str = _help("linear, mlp or identity", default="linear")
    mlp_depth: int = _help("mlp only: hidden layers, each Linear then GELU", default=0)
    mlp_hidden_dim: int = _help("mlp only: width of the hidden layers", default=0)
    separate_query_head: bool = _help("own, never rotated query projection for knowledge", default=True)
    question_head: str | None = _help(
        "linear or mlp: knowledge queries also see the question's sentence vector; only with separate_query_head",
        default=None,
    )
    question_hidden_dim: int = _help("question_head mlp only: width of its hidden layer", default=0)
    knowledge_scale: float | None = _help(
        "C: adds log C - log M to knowledge scores; only with separate_query_head", default=None
    )
    top_k: int | None = _help("attend to the k best triples only (upstream's dynamic_sparsify)", default=None)
    # None, as older files have it, is the middle knowledge layer, where upstream's official run retrieves (15 of 32).
    evidence_layer: int = _help(
        "knowledge layer whose attention names the triples used; default: the middle one", default=None
    )
    encoder: str | None = _help("fingerprint of the sentence encoder it was trained with", default=None)
    base_model: str | None = _help("name or path of the model it was trained for", default=None)
    prompt: str | None = _help(
        "template around {question}; default: the family's, then the chat template", default=None
    )
    base_signature: Signature | None = field(
        default=None, metadata={"help": "what its weights look like; another model of the same shape is refused"}
    )
    pointer: bool = _help("answers copy the text of the triples they rest on", default=False)
    answer: str = _help("the sentence that says a fact; the pointer follows it", default=ANSWER)
    known_above: float | None = _help(
        "confidence, or attention mass at the prompt's end, from which a question counts as known", default=None
    )
    confidence: Confidence | None = field(
        default=None,
        metadata={"help": "weights of what known_above is compared with; without them it is the attention mass"},
    )
    property_width: int = _help("width of the property head, which confidence reads; 0: none", default=0)
    property_cosine: bool = _help(
        "the property head adds the sentence encoder's own cosine; only with a property_width", default=False
    )
    property_layers: tuple[int, ...] = _help(
        "layers of the sentence encoder whose hidden states the property head reads of a question, beside its sentence "
        "vector, ascending from 1; only with property_cosine",
        default=(),
    )
    background: tuple[str, ...] = _help(
        "properties that people ask for, also of a knowledge base that has none of them", default=()
    )
    refusal: str = _help("what the model says when the knowledge base has no answer", default=REFUSAL)
    format_version: int = _help("version of this format", default=FORMAT_VERSION)

    def __post_init__(self) -> None:
        self._check_types()
        self._check_layers()
        if self.format_version > FORMAT_VERSION:
            raise AdapterConfigError(
                f"this adapter has format version {_shown(self.format_version)}, newer than {FORMAT_VERSION}, "
                "the newest this kblam reads; upgrade kblam"
            )
        if self.projector not in PROJECTORS:
            raise AdapterConfigError(f"projector must be one of {', '.join(PROJECTORS)}; got {self.projector!r}")
        if self.projector == "mlp" and self.mlp_hidden_dim == 0:
            raise AdapterConfigError(f"projector 'mlp' needs mlp_hidden_dim >= 1; got {self.mlp_hidden_dim}")
        if self.projector == "identity" and self.embedding_dim != self.out_dim:
            raise AdapterConfigError(
                f"projector 'identity' needs embedding_dim == num_slots * num_heads * head_dim = {self.out_dim}; "
                f"got {self.embedding_dim}"
            )
        if self.knowledge_scale is not None and not 0 < self.knowledge_scale < math.inf:
            raise AdapterConfigError(
                f"knowledge_scale must be positive and finite, or None; got {self.knowledge_scale}"
            )
        if self.top_k is not None and (not _is_whole(self.top_k) or self.top_k < 1):
            raise AdapterConfigError(f"top_k must be at least 1 or None; got {_shown(self.top_k)}")
        self._check_question_head()
        if self.evidence_layer is None:
            object.__setattr__(self, "evidence_layer", self.knowledge_layers[len(self.knowledge_layers) // 2])
        if not _is_whole(self.evidence_layer) or self.evidence_layer not in self.knowledge_layers:
            raise AdapterConfigError(
                f"evidence_layer {self.evidence_layer} is not a knowledge layer; those are {self.knowledge_layers}"
            )
        if self.prompt is not None and "{question}" not in self.prompt:
            raise AdapterConfigError(f"prompt must contain {{question}}; got {self.prompt!r}")
        if missing := [part for part in ("{property}", "{name}", "{value}") if self.answer.count(part) != 1]:
            raise AdapterConfigError(f"answer must contain {', '.join(missing)} once; got {self.answer!r}")
        if self.known_above is not None and not 0 <= self.known_above <= 1:
            raise AdapterConfigError(f"known_above must be a share of 0 .. 1, or None; got {self.known_above}")
        self._check_confidence()
        self._check_property_cosine()
        self._check_property_layers()
        given = self.background
        if not isinstance(given, list | tuple) or not all(
            isinstance(one, str) and one.strip() and len(one) <= _LONGEST_PROPERTY for one in given
        ):
            raise AdapterConfigError(
                f"background must be a list of texts of at most {_LONGEST_PROPERTY} characters; got {_shown(given)}"
            )
        if len(given) > _MOST_BACKGROUND:
            raise AdapterConfigError(f"background must be at most {_MOST_BACKGROUND:,} texts; got {len(given):,}")
        object.__setattr__(self, "background", tuple(self.background))  # JSON has lists
        if self.base_signature is not None:
            object.__setattr__(self, "base_signature", Signature.read(self.base_signature))

    def _check_types(self) -> None:
        """What a file says may be of any type."""
        for name, (least, most) in _COUNTS.items():
            value = getattr(self, name)
            if not _is_whole(value) or value < least:
                raise AdapterConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
            if value > most:
                raise AdapterConfigError(f"{name} must be at most {most:,}; got {_shown(value)}")
        for names, kinds, what in (
            (_TEXTS, (str,), "text"),
            (_TEXTS_OR_NONE, (str, type(None)), "text or None"),
            (_SWITCHES, (bool,), "true or false"),
            (_NUMBERS_OR_NONE, (int, float, type(None)), "a number or None"),
        ):
            for name in names:
                value = getattr(self, name)
                if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                    raise AdapterConfigError(f"{name} must be {what}; got {_shown(value)}")

    def _check_confidence(self) -> None:
        given: Any = self.confidence
        if isinstance(given, dict):  # JSON has no classes
            try:
                object.__setattr__(self, "confidence", Confidence(**given))
            except TypeError as error:
                raise AdapterConfigError(f"confidence does not fit: {error}") from error
        elif not isinstance(given, Confidence | None):
            raise AdapterConfigError(f"confidence must be its weights by name, or None; got {given!r}")
        if given is not None:  # of an adapter read from an older file, which `from_dict` left without one
            object.__setattr__(self, "format_version", max(self.format_version, _CONFIDENCE_FORMAT))

    def _check_property_cosine(self) -> None:
        if not self.property_cosine:
            return
        if not self.property_width:
            raise AdapterConfigError("property_cosine needs a property_width: it is a part of the property head")
        # Also of an adapter of an older format whose property head was learned anew.
        object.__setattr__(self, "format_version", max(self.format_version, _COSINE_FORMAT))

    def _check_property_layers(self) -> None:
        given: Any = self.property_layers
        layers = tuple(given) if isinstance(given, list | tuple) else (None,)  # JSON has lists
        if (
            len(layers) > _MOST_PROPERTY_LAYERS
            or not all(_is_whole(one) and 1 <= one <= _DEEPEST for one in layers)
            or list(layers) != sorted(set(layers))
        ):
            raise AdapterConfigError(
                f"property_layers must be at most {_MOST_PROPERTY_LAYERS} different layers of the encoder, ascending "
                f"from 1; got {_shown(given)}"
            )
        object.__setattr__(self, "property_layers", layers)
        if not layers:
            return
        if not self.property_cosine:
            raise AdapterConfigError("property_layers need property_cosine: they are read beside the sentence vector")
        object.__setattr__(self, "format_version", max(self.format_version, _LAYERS_FORMAT))

    def _check_question_head(self) -> None:
        if self.question_head is None:
            return
        if self.question_head not in QUESTION_HEADS:
            raise AdapterConfigError(
                f"question_head must be one of {', '.join(QUESTION_HEADS)}, or None; got {self.question_head!r}"
            )
        if not self.separate_query_head:
            raise AdapterConfigError("question_head needs separate_query_head: rotated queries are the prompt's own")
        if self.question_head == "mlp" and self.question_hidden_dim == 0:
            raise AdapterConfigError(
                f"question_head 'mlp' needs question_hidden_dim >= 1; got {self.question_hidden_dim}"
            )

    def _check_layers(self) -> None:
        if self.layers is None:
            return
        try:
            layers = tuple(self.layers)  # JSON has lists
        except TypeError:
            layers = ()
        whole = all(map(_is_whole, layers))
        if not layers or not whole or list(layers) != sorted({n for n in layers if 0 <= n < self.num_layers}):
            raise AdapterConfigError(
                f"layers must be different layers of 0 .. {self.num_layers - 1}, ascending, or None; "
                f"got {self.layers!r}"
            )
        object.__setattr__(self, "layers", layers)

    @property
    def knowledge_layers(self) -> list[int]:
        """Layers that see knowledge: `layers`, or every `layer_frequency`-th, from 0."""
        if self.layers is not None:
            return list(self.layers)
        return list(range(0, self.num_layers, self.layer_frequency))

    @property
    def num_slots(self) -> int:
        """S: one for each of `layers`.

        With a frequency as upstream: if it divides the layers the last slot is never read, yet the key norm counts it.
        """
        if self.layers is not None:
            return len(self.layers)
        return 1 + self.num_layers // self.layer_frequency

    @property
    def out_dim(self) -> int:
        """Width of a projected key or value: S * Hq * D."""
        return self.num_slots * self.num_heads * self.head_dim

    def slot_of(self, layer: int) -> int:
        """Which slot of a projected vector a knowledge layer reads."""
        return layer // self.layer_frequency if self.layers is None else self.layers.index(layer)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = dataclasses.asdict(self)
        if self.base_signature is not None:
            values["base_signature"] = self.base_signature.to_plain()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> AdapterConfig:
        """The inverse of `to_dict`. Unknown keys are ignored with a warning; a newer format is refused."""
        version = data.get("format_version", FORMAT_VERSION)
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            if isinstance(version, int) and version > FORMAT_VERSION:
                raise AdapterConfigError(
                    f"this adapter has format version {_shown(version)}, newer than {FORMAT_VERSION}; upgrade kblam"
                )
            shown = ", ".join(name if name.isprintable() else repr(name) for name in unknown)
            warnings.warn(f"ignoring unknown keys in the adapter's config: {shown}", KblamWarning, stacklevel=2)
        if isinstance(version, int) and version < _CONFIDENCE_FORMAT and data.get("confidence") is not None:
            # Its weights are for other shares of properties: up to format 5 by the attention's own projections, in 6
            # without the words that a question says, up to 9 of all properties.
            warnings.warn(
                f"the confidence of this adapter is of format {version}, and this kblam reads properties otherwise; it "
                "is left out, so what is known is left to the model: calibrate it anew (kblam calibrate)",
                KblamWarning,
                stacklevel=2,
            )
            data = {**data, "confidence": None, "known_above": None}
        needed = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
        if lacking := [name for name in needed if name not in data]:
            raise AdapterConfigError(f"the adapter's config lacks {', '.join(lacking)}")
        return cls(**{name: value for name, value in data.items() if name in known})

    @classmethod
    def for_model(cls, model_config: Any, embedding_dim: int, **options: Any) -> AdapterConfig:
        """The config that fits a transformers model config; `options` are further fields of this class.

        Raises:
            AdapterConfigError: the model has no attention heads (a state space model), or not the same in every layer,
                or an option is out of range.
        """
        text = model_config.get_text_config()
        try:
            heads: Any = getattr(text, "num_attention_heads", None)
            head_dim = getattr(text, "head_dim", None)
            hidden_size, num_layers = text.hidden_size, text.num_hidden_layers
        except (AttributeError, RuntimeError) as error:  # what differs from layer to layer cannot be asked for
            raise AdapterConfigError(
                f"{type(text).__name__} has no single number and width of heads: {str(error).splitlines()[0]}"
            ) from error
        if not _is_whole(heads) or heads < 1:
            raise AdapterConfigError(
                f"{type(text).__name__} says of no attention heads, and knowledge is attended to; take a model with "
                "attention in its layers"
            )
        return cls(
            embedding_dim=embedding_dim,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=heads,
            head_dim=head_dim or hidden_size // heads,
            **options,
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value as a message shows it; printing a number of thousands of digits is refused by Python."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length():,} bits"
    return repr(value)[:80]
