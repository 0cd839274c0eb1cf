"""What it means: energy, legality, baselines; reads only records and configuration."""
