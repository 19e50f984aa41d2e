"""Weight-only quantization against the peers' tools: what runs, what is measured and claimed."""
