"""Decisions: layout, tiling, and the lowering of operations to commands."""
