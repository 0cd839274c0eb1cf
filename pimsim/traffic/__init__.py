"""Plain requests to a memory, one burst each: what is asked for and when. Neither hardware nor a model."""
