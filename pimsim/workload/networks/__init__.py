"""Whole vision networks, image in, logits out, as graphs of primitives: stem, blocks with attention, downsampling, classifier.

`parts` builds what stands around the blocks, `network` puts a network together, `efficientvit` and `shvit` say what its
blocks are, and `reference` computes the same in float64 without primitives.
"""
