"""Lowering: one function per (operation, unit), from the operation to the commands that carry it out."""
