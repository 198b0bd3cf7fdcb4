"""Do two machines say the same? Compares the correlations and skills of two runs' tables.

One core instead of all is another thread count and another batch size:

    STS_OUT=other taskset -c 0 make reproduce
    .venv/bin/python benchmarks/machines.py figures/smol other/figures/smol
"""

import sys
from pathlib import Path

import pandas as pd

from sts_utils.results import verdict

#: Table -> what names a row, and its number with an interval.
TABLES = {
    "table1": (["training set", "measure"], "value"),
    "table5": (["domains", "predictor"], "value"),
    "table6": (["domains", "metric", "selection", "change"], "r"),
    "table13": (["domains", "predictor"], "skill"),
}


def compared(a: Path, b: Path) -> pd.DataFrame:
    """A row a number that both runs have: both, their difference, and both verdicts."""
    rows = []
    for name, (keys, column) in TABLES.items():
        files = [folder / f"{name}.csv" for folder in (a, b)]
        if not all(file.exists() for file in files):
            continue
        read = [pd.read_csv(file) for file in files]
        ours = [t[t.source == "ours"] if "source" in t else t for t in read]
        left, right = (t.set_index(keys)[[column, "low", "high"]].dropna() for t in ours)
        for key in left.index.intersection(right.index):
            one, other = left.loc[key], right.loc[key]
            words = " ".join(key) if isinstance(key, tuple) else key
            row = {"table": name, "row": words, "a": one[column], "b": other[column]}
            row["difference"] = row["b"] - row["a"]
            said = (verdict(of.low, of.high) for of in (one, other))
            rows.append(row | dict(zip(("verdict a", "verdict b"), said, strict=True)))
    return pd.DataFrame(rows)


if __name__ == "__main__":
    table = compared(*map(Path, sys.argv[1:3]))
    print(table.round(3).to_string(index=False))
    flips = (table["verdict a"] != table["verdict b"]).sum()
    print(f"\nlargest difference {table.difference.abs().max():.3f}; {flips} verdicts flip")
