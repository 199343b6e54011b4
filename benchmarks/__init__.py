"""Measurements: side by side in one run, against the ceilings of that run. `make gpu-bench`, `make gpu-check`."""
