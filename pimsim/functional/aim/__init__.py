"""Decoders on GDDR6-AiM on numbers: the device, instruction by instruction, its host, and who judges them."""
