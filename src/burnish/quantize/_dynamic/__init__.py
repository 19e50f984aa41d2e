"""Dynamic int8: placement, insertion, the step, and the call known from torch."""
