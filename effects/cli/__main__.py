"""``python -m effects.cli``."""

import sys

from effects.cli import main

sys.exit(main())
