"""`python -m runlease`: the command line."""

from runlease.cli import main

if __name__ == "__main__":
    main()
