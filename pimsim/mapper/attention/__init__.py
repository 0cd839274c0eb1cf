"""Attention algorithms on PIM machines: one lowering for each kind of primitive, none of which knows an algorithm."""
