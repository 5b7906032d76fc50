"""`python -m loadgen` is `loadgen`."""

import sys

from loadgen.cli import main

sys.exit(main())
