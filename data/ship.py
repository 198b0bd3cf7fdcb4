"""Writes data/shipped: the sums of the default run that a clone opens with (`make render`)."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from datetime import date

import numpy as np
from safetensors.numpy import save_file

from sts_utils import config, shipped, store
from sts_utils.features import FeatureStats


def ship(of: shipped.Run, wide: int = 10) -> None:
    """Put a run's sums into data/shipped, in place of what is there: of domains those of the
    `wide` × N most shifted features."""
    most = [dims.ids[: wide * of.profile.top_n] for dims in of.ranked]
    columns = np.unique(np.concatenate(most))
    files = {"density": {"share": of.density}, "peaks": of.peaks}
    for i, s in enumerate(of.seeds):
        files |= {f"{side}-{s}": summed({side: getattr(of, side)[i]}) for side in shipped.SIDES}
        files[f"domains-{s}"] = summed(of.domains[i], columns)
    shutil.rmtree(shipped.FOLDER, ignore_errors=True)
    shipped.FOLDER.mkdir()
    for name, values in files.items():
        save_file(values, shipped.FOLDER / f"{name}.safetensors")
    of.changes.drop(columns="change").to_parquet(
        shipped.FOLDER / shipped.TABLE, compression="zstd", index=False
    )
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    said = subprocess.run(words, cwd=store.ROOT, capture_output=True, text=True).stdout.strip()
    made = {"commit": said, "date": str(date.today())}
    made |= {"seeds": of.seeds, "settings": shipped.settings(of.profile)}
    (shipped.FOLDER / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def summed(named: Mapping[str, FeatureStats], columns=None) -> dict[str, np.ndarray]:
    """Arrays of FeatureStats, a row a name: sums over its rows, of every feature and raw dim; or of
    the features `columns` alone."""
    features, raw = next(iter(named.values())).features, ... if columns is None else slice(0)
    own = ... if columns is None else np.searchsorted(features, columns)
    at = {"n": ..., "r": raw, "dr": raw, "dr2": raw}
    sums = {
        f: np.stack([vars(of)[f].sum(0, dtype=float)[at.get(f, own)] for of in named.values()])
        for f in ("n", "h", "h2", "dh", "dh2", "r", "dr", "dr2")
    }
    return FeatureStats(tuple(named), features[own], **sums).arrays()


if __name__ == "__main__":
    ship(shipped.Run(config.load(shipped.PROFILE)))
