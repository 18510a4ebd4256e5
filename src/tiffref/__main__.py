"""`python -m tiffref` is the command `tiffref`."""

from .cli import program

program()
