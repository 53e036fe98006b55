"""`python -m monosem`."""

from monosem.cli import main

main()
