"""`python -m sts_utils …`: see run.main."""

import sys

from sts_utils.report.run import main

sys.exit(main())
