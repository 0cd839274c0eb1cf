"""``python -m pimsim``: the command line."""

from pimsim.cli import main

if __name__ == "__main__":
    main()
