"""What each function took in a run that began with an empty store: from its results' times.

`python benchmarks/stages.py --start "2026-11-27 16:00:59"` after `make reproduce` in the same
folder prints the table. The time from one finished result to the next counts
for the function of the second: where two processes compute, this is a share of the wall clock.
"""

import argparse
from datetime import datetime

import pandas as pd

from sts_utils import store


def table(start: float) -> pd.DataFrame:
    """function, calls, seconds; the whole in the last row. The set-up and the notebooks are in
    none of them."""
    made = sorted((folder.stat().st_mtime, folder.name) for folder in store.RUNS.glob("[a-z]*-*"))
    rows, last = [], start
    for when, name in made:
        rows.append((name.rpartition("-")[0], 1, when - last))
        last = when
    found = pd.DataFrame(rows, columns=["function", "calls", "seconds"])
    found = found.groupby("function", as_index=False).sum().sort_values("seconds", ascending=False)
    found.loc[len(found)] = ["in all", len(made), last - start]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", required=True, help="when it began, in local time")
    begun = datetime.fromisoformat(parser.parse_args().start)
    found = table(begun.timestamp()).round().astype({"seconds": int})
    print(found.to_string(index=False))


if __name__ == "__main__":
    main()
