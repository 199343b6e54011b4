"""Sentence vectors of everything that a training run mentions, computed once and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import Tensor

from kblam.errors import TrainingError, argument
from kblam.knowledge import Encoder
from kblam.knowledge.encoders import Progress
from kblam.knowledge.encoders.checked import encoded
from kblam.whole import why_not, write_whole

# Texts of a file: whole batches of an encoder, and few enough that a killed run loses seconds.
PIECE = 2048
_KEY_BYTES = 16


class Vectors:
    """Vectors by text.

    Args:
        texts: all that will be asked for.
        encoder: of the knowledge bases that the adapter is for.
        folder: where files are kept.
        progress: told how many of the texts that no run has encoded before are done.

    Attributes:
        table: (texts, P) float16.
        scale: what makes the vectors' numbers of unit mean square, e.g. sqrt(P) for vectors of unit norm.
        encoded: how many texts were encoded now; the vectors of the others were kept.

    Raises:
        TrainingError: a file of vectors is damaged, none can be written to the folder, which is told before a text is
            encoded, or the encoder gives numbers that float16 does not hold.
        EncoderError: the encoder fails, or gives what is no vector.
        OSError: one cannot be written.
    """

    def __init__(self, texts: Iterable[str], encoder: Encoder, folder: Path, progress: Progress | None = None) -> None:
        # By length, as encoders batch them; the longest first, so that what is left takes less than it seems.
        known = sorted(set(texts), key=lambda text: (-len(text), text))
        table, self.encoded = _Kept(encoder, folder).of(known, progress)
        self.table = torch.from_numpy(table)
        self.scale = float(self.table.float().pow(2).mean()) ** -0.5
        self._row = {text: row for row, text in enumerate(known)}

    def rows(self, texts: Iterable[str]) -> Tensor:
        """Rows of `table`, int64."""
        return torch.tensor([self._row[text] for text in texts], dtype=torch.int64)

    def of(self, texts: Iterable[str]) -> Tensor:
        """(n, P) float32, of unit mean square."""
        return self.at(self.rows(texts))

    def at(self, rows: Tensor) -> Tensor:
        """The vectors of `rows`, (n, P) float32, of unit mean square."""
        return self.table[rows].float() * self.scale


class _Kept:
    """What runs have encoded before, in files of `PIECE` texts: texts are known by their hash.

    A text is encoded once, whatever else a run mentions, and a run that was killed goes on after the last whole file.
    Two processes may write at once: a file is named by its texts.
    """

    def __init__(self, encoder: Encoder, folder: Path) -> None:
        self._encoder = encoder
        self._folder = folder / f"vectors-{hashlib.sha256(encoder.fingerprint.encode()).hexdigest()[:16]}"

    def of(self, texts: list[str], progress: Progress | None) -> tuple[np.ndarray, int]:
        """(texts, P) float16, and how many were missing, and encoded."""
        table = np.empty((len(texts), self._encoder.dimension), np.float16)
        missing = {_key(text): row for row, text in enumerate(texts)}
        for keys, vectors in self._files():
            rows = [(place, missing.pop(key)) for place, key in enumerate(keys) if key in missing]
            if rows:
                places, into = zip(*rows, strict=True)
                table[list(into)] = vectors[list(places)]
        left = sorted(missing.values())
        if left and (reason := why_not(self._folder / "piece")) is not None:
            other = argument("cache", "--cache", ("train", "calibrate"))
            raise TrainingError(f"sentence vectors cannot be kept: {reason}; choose another {other}")
        for first in range(0, len(left), PIECE):
            rows_of_piece = left[first : first + PIECE]
            piece = [texts[row] for row in rows_of_piece]
            told = None if progress is None else lambda done, _, first=first: progress(first + done, len(left))
            table[rows_of_piece] = _in_half(piece, self._encoder, told)
            self._keep(piece, table[rows_of_piece])
        return table, len(left)

    def _files(self) -> Iterator[tuple[list[bytes], np.ndarray]]:
        for path in sorted(self._folder.glob("*.safetensors")):
            if path.name.startswith("."):  # unfinished
                continue
            try:
                found = load_file(path)
                keys, vectors = found["keys"], found["vectors"]
                shapes = (len(vectors), _KEY_BYTES), (len(keys), self._encoder.dimension)
                if (keys.shape, vectors.shape) != shapes or (keys.dtype, vectors.dtype) != (np.uint8, np.float16):
                    raise ValueError(f"{keys.dtype} {keys.shape} and {vectors.dtype} {vectors.shape}")
                if not np.isfinite(vectors).all():
                    raise ValueError("not all numbers are finite")
            except (SafetensorError, ValueError, KeyError) as error:
                raise TrainingError(
                    f"{path} is damaged: {error}; delete it, since what it had is encoded again"
                ) from error
            yield [bytes(key) for key in keys], vectors

    def _keep(self, texts: list[str], vectors: np.ndarray) -> None:
        keys = [_key(text) for text in texts]
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:16]
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, _KEY_BYTES)
        write_whole(self._folder / f"{name}.safetensors", save({"keys": table, "vectors": vectors}))


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:_KEY_BYTES]


def _in_half(texts: list[str], encoder: Encoder, progress: Progress | None) -> np.ndarray:
    """(texts, P) float16."""
    # In bfloat16, which takes a third of the time; vectors keep a cosine above 0.9999 with their float32 selves.
    with torch.autocast("cpu", torch.bfloat16, enabled=_has_bf16()), np.errstate(over="ignore"):
        vectors = encoded(encoder, texts, progress=progress).astype(np.float16)
    if not np.isfinite(vectors).all():
        raise TrainingError(f"the encoder {encoder.spec} gives numbers that float16 does not hold; take another")
    return vectors


def _has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())
