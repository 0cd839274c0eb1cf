"""Closed forms, without simulation."""
