"""`python -m analysis`: the same as the installed `analysis` command."""

import sys

from analysis.cli import main

sys.exit(main())
