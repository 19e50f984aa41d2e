"""The parts of ptq_vs_peers.py, one idea a file."""
