"""Attention algorithms by name: one module each, which registers itself.

`algorithm` makes one from its name and parameters; `Case` says the sizes. docs/attention.md shows how to add one.
"""
