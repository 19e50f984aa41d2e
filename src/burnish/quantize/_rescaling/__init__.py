"""Moving scale from one layer to its neighbour before anything is rounded."""
