"""Reading float graphs: layers, their weights, where quantizers stand, how models come in."""
