"""Casting to float16 and bfloat16: what may be small, where conversions stand, the step."""
