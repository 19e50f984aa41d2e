"""The parts of prune_zoo.py: which models, what is checked, the child process, the page."""
