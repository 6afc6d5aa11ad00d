"""`python -m fedhw`: the command line."""

from fedhw.cli import main

if __name__ == "__main__":
    main()
