"""Mixed precision: what each layer's precisions cost and lose, allocation, the step."""
