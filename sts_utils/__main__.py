"""`python -m sts_utils …`: see cli.main."""

import sys

from sts_utils.cli import main

sys.exit(main())
