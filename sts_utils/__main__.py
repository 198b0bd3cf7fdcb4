"""`python -m sts_utils …`: see cli.main."""

from sts_utils.cli import main

raise SystemExit(main())
