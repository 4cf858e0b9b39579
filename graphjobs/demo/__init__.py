"""The demonstration: real SBOMs, read, built and judged as jobs."""
