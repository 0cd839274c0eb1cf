"""The waist: a typed command program that machine, executor and verifier read."""
