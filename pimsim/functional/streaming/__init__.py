"""Streaming programs on numbers: fixed-point arithmetic, a handler per stage, the executor, and its judge."""
