"""Studies, one a file: what needs several forwards, labels or models."""
