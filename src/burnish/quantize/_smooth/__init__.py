"""SmoothQuant: which layers, how much, and the step."""
