"""`python -m dslc` is the command `dslc`."""

from .cli import main

main()
