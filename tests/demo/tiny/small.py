"""A tiny world with invented embeddings, so that the training code runs in seconds and without an encoder."""

from __future__ import annotations

import copy
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kblam.demo.tiny import cache as cache_module
from kblam.demo.tiny.cache import EmbeddingCache
from kblam.demo.tiny.initialise import start_as_bag_of_words
from kblam.demo.tiny.model import EMBEDDING_DIM, DemoModel
from kblam.demo.tiny.tokenizer import build_tokenizer, real_words
from kblam.demo.tiny.train import Recipe, Trainer
from kblam.demo.tiny.world import World, build_world
from kblam.knowledge.triples import key_text


def hashed_embeddings(texts: list[str]) -> np.ndarray:
    """Unit vectors that depend on the text alone."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=EMBEDDING_DIM) for text in texts]
    vectors = np.asarray(rows)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def tiny_world() -> World:
    """A few dozen entities."""
    return build_world(real_words(), train_grid=300, train_open=30, test_grid=40, test_open=10)


def tiny_cache(world: World, folder: Path, patch: pytest.MonkeyPatch) -> EmbeddingCache:
    """Hashed embeddings of everything in a world."""
    patch.setattr(cache_module, "encode", hashed_embeddings)
    entities = [*world.train, *world.test_grid, *world.test_open]
    keys = [key_text(entity.name, prop) for entity in entities for prop in entity.facts]
    return EmbeddingCache([*keys, *(value for entity in entities for value in entity.facts.values())], folder)


def tiny_start(world: World, cache: EmbeddingCache) -> DemoModel:
    """A small model at its start: 128 wide, two heads."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = DemoModel(tokenizer, hidden=128)
    start_as_bag_of_words(model, world, cache, tokenizer, sample=400)
    return model


def tiny_trainer(world: World, cache: EmbeddingCache, start: DemoModel) -> Trainer:
    """The real trainer, of a model that is at its start as `start` is."""
    model = copy.deepcopy(start)
    few = {name: replace(getattr(Recipe(), name), rows=24) for name in ("first", "finishing")}
    recipe = Recipe(steps=3, finishing_steps=3, warmup=1, triples=(24, 32), sample=50, **few)
    return Trainer(recipe, world, cache, model)
