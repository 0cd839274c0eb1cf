"""What the hardware is: configuration models and the DRAM standard resolved to integers."""
