"""Quantization-aware training: fake quantizers in, trained, read back; the two steps."""
