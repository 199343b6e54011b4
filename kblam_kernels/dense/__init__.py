"""Attention to knowledge held as keys and values of each head."""
