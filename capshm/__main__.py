"""`python -m capshm`: the command."""

from capshm.commands import main

if __name__ == "__main__":
    main()
