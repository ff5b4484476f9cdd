"""`python -m bnsweep`."""

from bnsweep.cli import main

if __name__ == "__main__":
    main()
