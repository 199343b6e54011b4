"""Attention to knowledge measured beside what PyTorch users have, on a CPU or a GPU; docs/benchmarks.md.

Importing the modules here needs torch alone; `models` and `whole_model` need transformers.
"""
