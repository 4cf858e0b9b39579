"""The demonstration: read real SBOMs, build their graphs and evaluate a policy, as jobs."""
