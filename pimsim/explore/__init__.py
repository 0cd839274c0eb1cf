"""Many runs: sweeps over axes and searches for the best points, with a store that survives being killed."""
