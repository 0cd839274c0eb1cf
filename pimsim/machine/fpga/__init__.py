"""The streaming machine: when stages, FIFOs and ports move their tokens; a reference engine and a fast one."""
