"""Published and golden figures against this simulator: a module for each machine or kind of figure, and the table of all."""
