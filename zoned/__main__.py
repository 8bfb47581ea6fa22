"""`python -m zoned`: the same as the command `zoned`."""

from zoned.cli import main

main()
