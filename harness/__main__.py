"""`python -m harness` is the command `sunder`."""

from harness.cli import main

main()
