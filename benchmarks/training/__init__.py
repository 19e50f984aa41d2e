"""The parts of train_precision.py, distill_table.py and recover_table.py, one idea a file."""
