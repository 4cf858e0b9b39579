"""Policy runs: what evaluates a policy over SBOMs; the same rooms as those of graph jobs, in the same shape."""
