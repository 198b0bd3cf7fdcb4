"""Old names, until nobody imports them."""

from sts_utils.corpora import domains, load, names, source  # noqa: F401
from sts_utils.corpora.packaged import packaged_file  # noqa: F401

DOMAINS = domains("mmlu-pro")
CORPORA = names()
