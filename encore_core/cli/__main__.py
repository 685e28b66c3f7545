"""`python -m encore_core.cli` is the command `encore`."""

import sys

from encore_core.cli import main

sys.exit(main())
