"""`python -m tiffref` is the command `tiffref`."""

import sys

from .cli import main

sys.exit(main())
