"""`python -m reticent.cli`: the command line, where its script isn't on the path."""

from reticent.cli import main

if __name__ == "__main__":
    main()
