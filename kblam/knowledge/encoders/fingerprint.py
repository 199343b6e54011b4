"""A name for what a sentence-transformers model makes of a text: equal for two models only if all of it is equal.

All weights, the modules with their settings, the pooling, the prompt, the length at which texts are cut, the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# Texts on which tokenizers of one vocabulary differ: case, accents, scripts, joined signs, white space, rare signs.
_PROBES = (
    "Amber Falcon WHO is it? don't re-read naïve Ame\u0301lie ﬁne ＦＵＬＬ 123,456.78 x_y",
    "東京タワーの高さ Привет мир שלום नमस्ते 한국어 😀🏽 a\u200bb  two\tspaces\nline",
)
# Earlier releases hashed a sample of the weights and nothing else. Knowledge bases and adapters of the default model
# record that hash, so it stays the name of exactly this model: of no other that has the same sample.
_EARLIER_NAMES = {"13d1eeaf8b08b9d33202ed8b8f908cef": "sentence-transformers:004a0352152df0c8:384"}


def fingerprint_of(model: SentenceTransformer, dimension: int) -> str:
    """The name of what this model computes."""
    digest = sha256()
    for part in _parts(model):
        digest.update(len(part).to_bytes(8, "little") + part)
    found = digest.hexdigest()[:32]
    return _EARLIER_NAMES.get(found, f"sentence-transformers:{found}:{dimension}")


def _parts(model: SentenceTransformer) -> Iterator[bytes]:
    # Names of weights are left out, since they change between releases of transformers; so is BERT's pooler, which
    # sentence-transformers never runs and some copies of a model lack.
    for name, weight in [*model.named_parameters(), *model.named_buffers()]:
        if ".pooler." in name or name.endswith(("position_ids", "token_type_ids")):
            continue
        yield repr(tuple(weight.shape)).encode()
        yield weight.detach().float().cpu().contiguous().numpy().astype("<f4", copy=False).tobytes()
    for module in model:
        yield type(module).__name__.encode()
        yield _settings(module)
    yield _told({"prompt": model.prompts.get(model.default_prompt_name or "") or "", "dimension": model.truncate_dim})
    yield _told({"length": model.max_seq_length})
    yield from _parts_of_tokenizer(model.tokenizer)


def _settings(module: Any) -> bytes:
    """What a module does beside its weights."""
    # By name for the modules that nearly every model has: what the library lists for them grows with releases.
    known = {"Transformer": ("do_lower_case",), "Pooling": ("pooling_mode", "include_prompt"), "Normalize": ()}
    names = known.get(type(module).__name__, getattr(module, "config_keys", ()))
    return _told({name: getattr(module, name, None) for name in names})


def _parts_of_tokenizer(tokenizer: Any) -> Iterator[bytes]:
    if not hasattr(tokenizer, "get_vocab"):
        yield type(tokenizer).__name__.encode()
        return
    vocabulary = tokenizer.get_vocab()
    if isinstance(vocabulary, Mapping):
        yield _told(sorted(vocabulary.items()))
    else:  # of sentence-transformers' own, which split at words
        settings = {name: given for name, given in vars(tokenizer).items() if isinstance(given, bool | int | str)}
        yield _told([type(tokenizer).__name__, list(vocabulary), sorted(tokenizer.stop_words), settings])
    for probe in _PROBES:
        yield _told(_tokens(tokenizer, probe))


def _tokens(tokenizer: Any, text: str) -> list[int]:
    if callable(tokenizer):
        return tokenizer(text, truncation=False, verbose=False)["input_ids"]
    # That of static word vectors is one of the library tokenizers.
    return tokenizer.encode(text).ids if hasattr(tokenizer, "encode") else tokenizer.tokenize(text)


def _told(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, default=repr, ensure_ascii=True).encode()
