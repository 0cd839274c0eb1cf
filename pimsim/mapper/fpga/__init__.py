"""Lowering onto the streaming machine: operations become regions of stages, FIFOs and port streams."""
