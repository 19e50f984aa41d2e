"""What calibration data say: sketches of values, ranges from them, samples kept whole."""
