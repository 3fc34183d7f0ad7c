"""`python -m cxrlt`: the same as the command `cxrlt`."""

from cxrlt.cli import main

if __name__ == "__main__":
    main()
