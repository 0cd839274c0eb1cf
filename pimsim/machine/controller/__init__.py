"""A memory controller for plain requests: policy, queues, and two ways to decide that decide alike."""
