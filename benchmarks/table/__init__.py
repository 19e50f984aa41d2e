"""The parts of quantize_table.py, one idea a file."""
