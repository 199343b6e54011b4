"""Where training starts: weights from linear algebra instead of chance, so that retrieval works within minutes.

A regression from the words of a text to its sentence embedding already retrieves the right key nineteen times in
twenty, for words never seen as well. Gradient descent takes thousands of steps to find that map from random
weights, because what all questions share drowns what tells names apart. So the model starts as a bag of words:

- token embeddings are the regression's image of the encoder's word embeddings, on its strongest directions;
- the values and outputs of the first two layers' attention pass embeddings on unchanged, so that the last token
  of a question holds about the sum of its words;
- the evidence layer asks with that sum, and its keys are the regression from sentence embeddings back to it;
- values (and the keys nobody asks yet) start whitened: they vary equally in every direction.
"""

from __future__ import annotations

import math
import random
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from kblam.demo.tiny.cache import EmbeddingCache
from kblam.demo.tiny.model import EMBEDDING_DIM, DemoModel, TokenEmbedding
from kblam.demo.tiny.world import World
from kblam.knowledge.triples import key_text

_SHRINKAGE = 0.03  # of the mean variance, added to every direction before whitening
_WORD_RIDGE = 1e-4
_KEY_RIDGE = 2.0  # added to the variances of the scaled sentence embeddings
_PASS_ON = 2.0  # how much of the average of the words each of the first two layers adds


def start_as_bag_of_words(
    model: DemoModel, world: World, cache: EmbeddingCache, tokenizer: PreTrainedTokenizerFast, sample: int = 20_000
) -> None:
    """Initial weights from `sample` facts of the training side; deterministic."""
    facts = [(key_text(entity.name, prop), value) for entity in world.train for prop, value in entity.facts.items()]
    facts = random.Random(0).sample(facts, min(sample, len(facts)))
    scale = math.sqrt(EMBEDDING_DIM)
    keys = cache.vectors[cache.rows(key for key, _ in facts)].float() * scale
    values = cache.vectors[cache.rows(value for _, value in facts)].float() * scale
    texts = [tokenizer.encode(key, add_special_tokens=False) for key, _ in facts]
    regress_embeddings(model.embedding, texts, keys)
    whiten_projector(cast(nn.Linear, model.adapter.value_projector), values)
    whiten_projector(cast(nn.Linear, model.adapter.key_projector), keys)
    ask_with_words(model, texts, keys)


def whitening(samples: Tensor) -> tuple[Tensor, Tensor]:
    """(mean (P,), symmetric W (P, P)): (x - mean) @ W has about unit covariance over `samples` (n, P)."""
    mean = samples.mean(0)
    centred = samples - mean
    covariance = centred.T @ centred / len(samples)
    floor = _SHRINKAGE * covariance.trace() / len(mean) * torch.eye(len(mean))
    values, vectors = torch.linalg.eigh(covariance + floor)
    return mean, vectors @ torch.diag(values.rsqrt()) @ vectors.T


@torch.no_grad()
def whiten_projector(projector: nn.Linear, samples: Tensor) -> None:
    """Start a projector as a random rotation of its whitened inputs; `samples` (n, P) are typical inputs."""
    mean, whiten = whitening(samples)
    rotation = torch.empty_like(projector.weight)
    # One rotation per 384 outputs: every block of rows sees the whole input.
    for block in rotation.split(samples.shape[1]):
        nn.init.orthogonal_(block)
    projector.weight.copy_(rotation @ whiten)
    projector.bias.copy_(-projector.weight @ mean)


@torch.no_grad()
def regress_embeddings(embedding: TokenEmbedding, texts: list[list[int]], sentences: Tensor) -> None:
    """Start the token embeddings where a regression from words to sentences would put them.

    Args:
        embedding: gets its projection.
        texts: token ids of some texts.
        sentences: (len(texts), P) their sentence embeddings.
    """
    mean, whiten = whitening(sentences)
    words = torch.stack([embedding.table[tokens].mean(0) for tokens in texts])
    words = words - words.mean(0)
    gram = words.T @ words / len(words)
    target = words.T @ ((sentences - mean) @ whiten) / len(words)
    weights = torch.linalg.solve(gram + _WORD_RIDGE * torch.eye(len(gram)), target)
    left, strength, _ = torch.linalg.svd(weights)
    width = embedding.projection.weight.shape[0]
    projection = (left[:, :width] * strength[:width].sqrt()).T
    spread = (embedding.table @ projection.T).std()
    embedding.set_projection(projection * (embedding.init_std / spread))


@torch.no_grad()
def ask_with_words(model: DemoModel, texts: list[list[int]], sentences: Tensor) -> None:
    """Make the evidence layer's query the sum of the words so far, and its keys the same sum, regressed.

    Args:
        model: its token embeddings must be in place.
        texts, sentences: as `regress_embeddings`.
    """
    config = model.adapter.config
    width = config.hidden_size
    table = model.embedding(torch.arange(model.embedding.table.shape[0]))
    table = table / table.pow(2).mean(-1, keepdim=True).sqrt().clamp(min=1e-6)  # as RMSNorm leaves them
    sums = torch.stack([table[tokens].sum(0) for tokens in texts])
    mean = sentences.mean(0)
    centred = sentences - mean
    gram = centred.T @ centred / len(sentences)
    target = centred.T @ (sums - sums.mean(0)) / len(sentences)
    to_words = torch.linalg.solve(gram + _KEY_RIDGE * torch.eye(len(gram)), target)
    to_words = to_words / (centred @ to_words).std()
    start = config.slot_of(config.evidence_layer) * width
    projector = cast(nn.Linear, model.adapter.key_projector)
    projector.weight[start : start + width] = to_words.T
    projector.bias[start : start + width] = -mean @ to_words
    for layer in model.base.model.layers[: config.evidence_layer]:
        layer.self_attn.v_proj.weight.copy_(torch.eye(width))
        layer.self_attn.o_proj.weight.copy_(_PASS_ON * torch.eye(width))
    cast(nn.Linear, model.adapter.query_heads[str(config.evidence_layer)]).weight.copy_(torch.eye(width))
