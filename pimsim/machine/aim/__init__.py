"""GDDR6-AiM: a host that decodes instructions, and channels that turn their requests into DRAM commands."""
