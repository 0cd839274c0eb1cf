"""What the commands of the command line do; `pimsim.cli` declares their options."""
