"""Static int8: ranges, weights and biases decided, insertion, and the step."""
