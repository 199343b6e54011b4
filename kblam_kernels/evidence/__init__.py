"""Which knowledge tokens an answer used: exact attention mass."""
