"""pimsim: cycle-accurate simulation of processing-in-memory and FPGA attention accelerators."""

__version__ = "0.1.0"
