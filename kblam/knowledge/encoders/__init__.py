"""Encoders: the frozen models that turn the texts of a triple into vectors."""

from kblam.knowledge.encoders.base import Encoder, Progress
from kblam.knowledge.encoders.layered import DeepEncoder, layered, usual_layers
from kblam.knowledge.encoders.loading import load_encoder, load_recorded_encoder
from kblam.knowledge.encoders.openai import OpenAIEncoder
from kblam.knowledge.encoders.sentence_transformer import SentenceTransformerEncoder

__all__ = [
    "DeepEncoder",
    "Encoder",
    "OpenAIEncoder",
    "Progress",
    "SentenceTransformerEncoder",
    "layered",
    "load_encoder",
    "load_recorded_encoder",
    "usual_layers",
]
