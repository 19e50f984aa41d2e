"""Tensors in few bits: formats, scales, rounding, storage; nothing here knows a graph."""
