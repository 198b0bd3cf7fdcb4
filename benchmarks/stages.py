"""What each kind of work took in a run that began with an empty store: from its files' times.

`python benchmarks/stages.py --start "2026-11-27 16:00:59"` after `make reproduce` in the same
folder writes the table into docs/costs.md. The time from one finished artifact to the next counts
for the kind of the second: where steps run side by side this is a share of the wall clock.
"""

import argparse
import re
from datetime import datetime

import pandas as pd
import psutil
from speed import document

from sts_utils import store

#: Prefix of an artifact's folder -> what was done.
KINDS = {
    "features-train": "features of training sets",
    "features-prose": "features of training sets",
    "features-domain": "features of domains, eight SAEs",
    "features-actual": "what fine-tuning moved",
    "residual-after": "what fine-tuning moved",
    "trained": "fine-tuning, 12 models",
    "selective": "selective fine-tuning",
    "performance": "evaluation before and after",
    "held-out": "evaluation before and after",
    "accuracy": "written mathematics",
    "rollouts": "written mathematics",
    "ablation": "features zeroed",
    "answers": "answers for mixtures",
    "labels": "what features are about",
    "stage": "notebooks and figures",
}


def table(start: float) -> pd.DataFrame:
    """kind, steps, seconds; with the whole in the last row. The set-up is in none of them."""
    made = sorted((folder.stat().st_mtime, folder.name) for folder in store.RUNS.glob("[a-z]*-*"))
    rows, last = [], start
    for when, name in made:
        prefix = re.fullmatch(r"(.+?)(-\d\d_\w+)?-[0-9a-f]{12}", name)[1]
        rows.append((KINDS.get(prefix, prefix), 1, when - last))
        last = when
    found = pd.DataFrame(rows, columns=["kind", "steps", "seconds"]).groupby("kind").sum()
    found = found.sort_values("seconds", ascending=False).reset_index()
    return pd.concat(
        [found, pd.DataFrame([("in all", len(made), last - start)], columns=found.columns)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", required=True, help="when it began, in local time")
    begun = datetime.fromisoformat(parser.parse_args().start)
    found = table(begun.timestamp()).round().astype({"seconds": int})
    machine = f"{begun:%Y-%m-%d}, {psutil.cpu_count()} CPU cores"
    document(machine, found, "stages")
    print(found.to_string(index=False))


if __name__ == "__main__":
    main()
