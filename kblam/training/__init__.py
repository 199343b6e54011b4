"""Training of adapters: the losses."""
