"""Which quantized operators cost quality: one pass, one table."""
