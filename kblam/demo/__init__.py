"""The demo: a real language model answers from a knowledge base that it never saw."""
