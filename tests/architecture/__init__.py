"""How the source is read and what it is held to; the numbers are in `test_architecture.py`."""
