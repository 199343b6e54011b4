"""The demo: a small world of invented facts, and a small model trained from scratch to answer from them."""
