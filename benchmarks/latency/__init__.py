"""What the benchmark of latency tables is made of: networks of drawn widths, and their trial."""
