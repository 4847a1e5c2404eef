"""`python -m edgeage`: the command line."""

from edgeage.cli import main

main()
