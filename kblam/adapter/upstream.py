"""Import of checkpoints written by microsoft/KBLaM ("upstream") or by AtlasKV, which grew from it.

What they compute with these weights, and where this project differs, is in docs/upstream.md; upstream_names.py has
what each calls its tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kblam.adapter.adapter import KnowledgeAdapter
from kblam.adapter.config import AdapterConfig
from kblam.adapter.upstream_files import Loaders, encoder_file, json_object, model_folder, model_weights, tensors_of
from kblam.adapter.upstream_names import PROJECTS, is_extra, projector_names, query_head_names
from kblam.errors import AdapterConfigError, AdapterFormatError, argument

# train.py writes the first beside the model and, on resume, reads the second.
SETTINGS_NAMES = ("kb_config_explicit.json", "kb_config.json")


def load_upstream(
    model_dir: str | Path,
    encoder_path: str | Path | None = None,
    *,
    query_head_path: str | Path | None = None,
    layer_frequency: int | None = None,
    separate_query_head: bool | None = None,
    knowledge_scale: float | None = None,
    top_k: int | None = None,
    encoder: str | None = None,
    base_model: str | None = None,
) -> KnowledgeAdapter:
    """A checkpoint of upstream or AtlasKV as an adapter; `.save_pretrained(folder)` converts it for good.

    Query heads keep the checkpoint's dtype (`attach` moves them to the model's), projections are float32.

    Args:
        model_dir: folder with config.json of the Llama or Phi-3 model and, unless `query_head_path` is given or
            there is no separate query head, its weights: `model*.safetensors` or `pytorch_model*.bin`.
        encoder_path: `encoder.pt`, the same as .safetensors, or a folder with either. None looks in
            `{model_dir}_encoder`, where train.py writes it, then in `model_dir`.
        query_head_path: file for upstream's `load_query_head`: `layer_{i}` -> state dict of a Linear.
        layer_frequency: every how many layers one sees knowledge; None takes the recorded one, else the one that
            fits the encoder's width.
        separate_query_head: None takes the recorded switch, else whether the checkpoint has query heads.
        knowledge_scale: C; None takes the recorded one. Upstream's train.py records none; its eval passes 100.
        top_k: attend to the k best triples; None takes the recorded switch, unless the run ignored it: upstream on
            Phi-3 and AtlasKV do.
        encoder: fingerprint of the sentence encoder, for the adapter's config; a checkpoint does not record it.
        base_model: name or path of the base model; None takes `_name_or_path` of config.json.

    Raises:
        AdapterFormatError: a file is missing, damaged, holds code, its tensors do not fit, or it records AtlasKV's
            hierarchical pruning; the message has the value and the fix.
        AdapterConfigError: an argument is out of range, or two contradict each other.
    """
    if query_head_path is not None and separate_query_head is False:
        raise AdapterConfigError(f"separate_query_head=False contradicts query_head_path={query_head_path}; drop one")
    folder = model_folder(model_dir)
    shape = _ModelShape.read(folder)
    settings = _Settings.read(folder)
    encoder_path = encoder_file(folder, encoder_path)
    projectors = _Projectors.read(encoder_path)

    frequency = _layer_frequency(projectors.out_dim, shape, layer_frequency, settings, encoder_path)
    if separate_query_head is None:
        # Upstream's load_query_head switches the separate head on.
        separate_query_head = True if query_head_path is not None else settings.separate_query_head
    heads: dict[str, Tensor] = {}
    if separate_query_head is not False:
        layers = range(0, shape.num_layers, frequency)
        heads = _query_heads(folder, query_head_path, layers, shape, required=bool(separate_query_head))
    if top_k is None and settings.dynamic_sparsify and shape.model_type != "phi3" and not settings.use_kg:
        top_k = settings.top_k

    config = AdapterConfig(
        embedding_dim=projectors.embedding_dim,
        hidden_size=shape.hidden_size,
        num_layers=shape.num_layers,
        num_heads=shape.num_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        layer_frequency=frequency,
        projector=projectors.kind,
        mlp_depth=projectors.mlp_depth,
        mlp_hidden_dim=projectors.mlp_hidden_dim,
        separate_query_head=bool(heads),
        knowledge_scale=settings.knowledge_scale if knowledge_scale is None else knowledge_scale,
        top_k=top_k,
        encoder=encoder,
        base_model=base_model or shape.name,
    )
    # Heads of an 8B model are 180 M weights: no second, random copy of them.
    with torch.device("meta"):
        adapter = KnowledgeAdapter(config)
    adapter.load_state_dict({**projectors.state, **heads}, assign=True)
    return adapter.eval()


def base_weights(model_dir: str | Path) -> Iterator[tuple[str, Tensor]]:
    """The base model's own weights in a checkpoint folder, one by one: what upstream and AtlasKV add is left out.

    `LlamaForCausalLM.from_pretrained(None, config=config, state_dict=dict(base_weights(folder)))` loads them.

    Raises:
        AdapterFormatError: the folder has no weights, or a file of them cannot be read.
    """
    folder = model_folder(model_dir)
    loaders = model_weights(folder)
    if not loaders:
        raise AdapterFormatError(
            f"{folder} has no model*.safetensors and no pytorch_model*.bin; give the folder with the model's weights"
        )
    for name, load in loaders.items():
        if not is_extra(name):
            yield name, load()


# --- what the JSON files say -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _ModelShape:
    """The base model's sizes, from config.json."""

    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    name: str | None

    @classmethod
    def read(cls, folder: Path) -> _ModelShape:
        path = folder / "config.json"
        data = json_object(path)
        hidden, layers, heads = (
            _positive(path, key, data.get(key)) for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")
        )
        head_dim = hidden // heads if data.get("head_dim") is None else _positive(path, "head_dim", data["head_dim"])
        if head_dim * heads != hidden:
            raise AdapterFormatError(
                f"{path}: {heads} heads of {head_dim} are not hidden_size {hidden}, which upstream needs; "
                "give the config.json of the model that the adapter was trained with"
            )
        name = data.get("_name_or_path")
        return cls(str(data.get("model_type")), hidden, layers, heads, name if isinstance(name, str) and name else None)


@dataclass(frozen=True)
class _Settings:
    """Upstream's KBLaMConfig or AtlasKV's AtlasKVConfig where a checkpoint records it; None where it does not."""

    path: Path | None = None
    layer_frequency: int | None = None
    knowledge_scale: float | None = None
    separate_query_head: bool | None = None
    dynamic_sparsify: bool = False
    top_k: int | None = None
    use_kg: bool = False  # AtlasKV's attention, which reads neither dynamic_sparsify nor a top-k over all triples

    @classmethod
    def read(cls, folder: Path) -> _Settings:
        path = next((folder / name for name in SETTINGS_NAMES if (folder / name).exists()), None)
        if path is None:
            return cls()
        data = json_object(path)
        scale = data.get("kb_scale_factor")
        if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (int, float)) or scale <= 0):
            raise AdapterFormatError(f"{path}: kb_scale_factor must be a positive number or null; got {scale!r}")
        for switch in ("sep_query_head", "dynamic_sparsify", "use_kg", "use_hierarchial_kv"):
            if not isinstance(data.get(switch), bool | None):
                raise AdapterFormatError(f"{path}: {switch} must be true or false; got {data[switch]!r}")
        if data.get("use_hierarchial_kv"):
            raise AdapterFormatError(
                f"{path}: use_hierarchial_kv is true, and AtlasKV's hierarchical pruning (root, inter and leaf keys) "
                "cannot be imported; set it to false to import the weights for attention to all triples, as AtlasKV's "
                "eval.py does unless told otherwise"
            )
        frequency, top_k = (data.get(key) for key in ("kb_layer_frequency", "top_k_kb"))
        return cls(
            path=path,
            layer_frequency=None if frequency is None else _positive(path, "kb_layer_frequency", frequency),
            knowledge_scale=scale,
            separate_query_head=data.get("sep_query_head"),
            dynamic_sparsify=bool(data.get("dynamic_sparsify")),
            top_k=None if top_k is None else _positive(path, "top_k_kb", top_k),
            use_kg=bool(data.get("use_kg")),
        )


def _positive(path: Path, key: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise AdapterFormatError(f"{path}: {key} must be a whole number of at least 1; got {value!r}")
    return value


def _layer_frequency(out_dim: int, shape: _ModelShape, asked: int | None, settings: _Settings, encoder: Path) -> int:
    """The one asked for or recorded, checked against out_dim = (1 + L // f) * hidden_size; else the one that fits."""
    L, hidden = shape.num_layers, shape.hidden_size
    slots, rest = divmod(out_dim, hidden)
    # Beyond L every frequency means the same: layer 0 alone, in one slot.
    fitting = [] if rest else [f for f in range(1, L + 2) if 1 + L // f == slots]
    fits = f"those that fit: {', '.join(map(str, fitting))}" if fitting else "none fits"
    for source, frequency in (
        ("layer_frequency", asked),
        (f"{settings.path}: kb_layer_frequency", settings.layer_frequency),
    ):
        if frequency is None:
            continue
        if frequency < 1 or out_dim != (1 + L // frequency) * hidden:
            raise AdapterFormatError(
                f"{source}={frequency} does not fit {encoder}: its out_dim is {out_dim}, "
                f"not (1 + {L} // {frequency}) * {hidden}; {fits}"
            )
        return frequency
    if not fitting:
        raise AdapterFormatError(
            f"{encoder} has out_dim {out_dim}, which is (1 + {L} // f) * hidden_size {hidden} for no frequency f; "
            "give the model folder that this encoder was trained with"
        )
    if len(fitting) > 1:
        raise AdapterFormatError(
            f"{encoder} has out_dim {out_dim}, which several layer frequencies give; pass layer_frequency, {fits}"
        )
    return fitting[0]


# --- tensors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Projectors:
    """Both projectors of an encoder file, under this project's names; their type comes from names and shapes."""

    kind: str
    embedding_dim: int
    out_dim: int
    mlp_depth: int
    mlp_hidden_dim: int
    state: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> _Projectors:
        # Accelerate prepares the encoder, so that on several GPUs every name begins with "module.".
        loaders = {name.removeprefix("module."): load for name, load in tensors_of(path).items()}
        project = projector_names(path, loaders)
        if project is None:
            return cls._identity(path, loaders)
        names = set(filter(project.has_projectors, loaders))
        key, value = project.key_projector, project.value_projector
        linears, depth = [""], 0
        if f"{key}.weight" not in names:
            # Sequential: GELUs have no tensors and take the even places from 2 on.
            depth = max(0, sum(bool(re.fullmatch(rf"{key}\.\d+\.weight", name)) for name in names) - 2)
            linears = ["0.", *(f"{1 + 2 * i}." for i in range(depth + 1))]
        wanted = {f"{kv}.{linear}{leaf}" for kv in (key, value) for linear in linears for leaf in ("weight", "bias")}
        if odd := sorted(names ^ wanted):
            raise AdapterFormatError(
                f"{path}: the projectors are neither upstream's linear nor its mlp; missing or unexpected: "
                f"{', '.join(odd[:6])}{' ...' if len(odd) > 6 else ''}; give the encoder.pt that train.py wrote"
            )
        tensors = {name: _read(path, loaders, name).float() for name in sorted(wanted)}
        first, last = (tensors[f"{key}.{linear}weight"] for linear in (linears[0], linears[-1]))
        if first.dim() != 2 or last.dim() != 2:
            raise AdapterFormatError(
                f"{path}: {key} weights must be matrices; got shapes {tuple(first.shape)} and "
                f"{tuple(last.shape)}; give the encoder.pt that train.py wrote"
            )
        (hidden, P), out_dim = first.shape, last.shape[0]
        widths = [P, *[hidden] * (len(linears) - 1), out_dim]
        for kv in (key, value):
            for linear, fan_in, fan_out in zip(linears, widths, widths[1:], strict=False):
                _check_shape(path, f"{kv}.{linear}weight", tensors, (fan_out, fan_in))
                _check_shape(path, f"{kv}.{linear}bias", tensors, (fan_out,))
        state = {
            f"{ours}.{linear}{leaf}": tensors[f"{theirs}.{linear}{leaf}"]
            for ours, theirs in (("key_projector", key), ("value_projector", value))
            for linear in linears
            for leaf in ("weight", "bias")
        }
        if linears == [""]:
            return cls("linear", P, out_dim, 0, 0, state)
        return cls("mlp", P, out_dim, depth, hidden, state)

    @classmethod
    def _identity(cls, path: Path, loaders: Loaders) -> _Projectors:
        """An encoder without projectors passes embeddings through; its unused embedding table still tells out_dim."""
        if "embedding.weight" not in loaders:
            raise AdapterFormatError(
                f"{path} is not an upstream encoder: it has no {', '.join(n.key_projector for n in PROJECTS)} or "
                "embedding tensor, but "
                f"{', '.join(sorted(loaders)[:4]) or 'nothing'}; give the encoder.pt that train.py wrote"
            )
        table = _read(path, loaders, "embedding.weight")
        if table.dim() != 2:
            raise AdapterFormatError(f"{path}: embedding.weight must be a matrix; got shape {tuple(table.shape)}")
        width = table.shape[1]
        return cls("identity", width, width, 0, 0, {})


def _query_heads(
    folder: Path, heads_file: str | Path | None, layers: range, shape: _ModelShape, required: bool
) -> dict[str, Tensor]:
    """`query_heads.{layer}.weight` of every knowledge layer; empty if there is none and none is required."""
    if heads_file is None:
        source, loaders = folder, model_weights(folder)
        project = query_head_names(folder, loaders)
        pattern = (project or PROJECTS[0]).query_head_pattern
        either = " or ".join(f"{n.query_head_pattern.format('i')}.weight" for n in PROJECTS if project in (n, None))
    else:
        source, loaders, pattern = Path(heads_file), tensors_of(Path(heads_file)), "layer_{}"
        either = "layer_i.weight"
    names = {layer: pattern.format(layer) for layer in layers}
    missing = [layer for layer, name in names.items() if f"{name}.weight" not in loaders]
    if len(missing) == len(layers) and not required:
        return {}
    if missing:
        raise AdapterFormatError(
            f"{source} has no {either} for knowledge layers i in {missing}; give the folder or the "
            + argument(
                "query_head_path that holds them, or pass separate_query_head=False if it was trained without",
                "--query-head that holds them",
                ("convert",),
            )
        )
    if biased := [name for name in names.values() if f"{name}.bias" in loaders]:
        raise AdapterFormatError(
            f"{source}: {biased[0]}.bias exists (attention_bias), and query heads here have no bias; "
            "such a checkpoint cannot be imported"
        )
    heads = {}
    for layer, name in names.items():
        weight = {name: _read(source, loaders, f"{name}.weight")}
        _check_shape(source, name, weight, (shape.hidden_size, shape.hidden_size))
        heads[f"query_heads.{layer}.weight"] = weight[name]
    return heads


def _read(path: Path, loaders: Loaders, name: str) -> Tensor:
    tensor = loaders[name]()
    if not tensor.is_floating_point():
        raise AdapterFormatError(f"{path}: {name} must hold floating-point numbers; got {tensor.dtype}")
    if not torch.isfinite(tensor).all():
        raise AdapterFormatError(
            f"{path}: {name} holds NaN or infinity; take a checkpoint from before training diverged"
        )
    # Its own memory: the file is only mapped, and may be replaced while the adapter lives.
    return tensor.clone()


def _check_shape(path: Path, name: str, tensors: Mapping[str, Tensor], expected: tuple[int, ...]) -> None:
    if tuple(tensors[name].shape) != expected:
        raise AdapterFormatError(
            f"{path}: {name} must have shape {expected}; got {tuple(tensors[name].shape)}; "
            "encoder, model folder and query heads must come from one training run"
        )
