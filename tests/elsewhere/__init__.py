"""Tests on a device that is not the CPU, on any machine; in a process of their own (`tests/test_elsewhere.py`)."""
