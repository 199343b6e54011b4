"""The small model that the tests ask: a small world of invented facts, and a model trained from scratch for it."""
