"""Weights alone in few bits, in blocks: methods of rounding, insertion, the step."""
