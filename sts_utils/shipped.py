"""The default run's sums, in data/shipped: from a clone its first notebooks open at once."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from functools import cached_property

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from sts_utils import corpora, measured, run, store
from sts_utils.config import Profile
from sts_utils.experiments import labels
from sts_utils.features import FeatureStats

PROFILE, FOLDER = "smol", store.DATA / "shipped"
WIDE = 10  #: The domains' sums are of the WIDE × N most shifted features.
#: What the numbers depend on; not the precision, which is the machine's choice.
SETTINGS = "model revision layer sae place train domains demonstrations top_n definition alignment "
SETTINGS += "shift sts sft evaluation labels"
SIDES, TABLE = ("train", "actual"), "changes.parquet"


class Run(measured.Run):
    """A run with its own results; where the store lacks them and its settings are those shipped,
    with the sums shipped: a row for all training questions, and one a domain. `made` is then their
    commit and date, else empty. density: labels.density's share; peaks: labels.peaks."""

    density = cached_property(lambda self: labels.density(self.profile)["share"])
    peaks = cached_property(lambda self: labels.peaks(self.profile))

    def __init__(self, p: Profile):
        super().__init__(p)
        self.made = {} if (made := fitting(p)) and kept(p) else made
        if self.made:
            print("Not computed here: read from data/shipped, of commit {commit}.".format(**made))
            files = {f.stem: load_file(f) for f in FOLDER.glob("*.safetensors")}
            self.peaks, self.density = files["peaks"], files["density"]["share"]
            read = {name: FeatureStats.from_arrays(of) for name, of in files.items() if "-" in name}
            self.train, self.actual = ([read[f"{n}-{s}"] for s in p.seeds] for n in SIDES)
            self.domains = [rows(read[f"domains-{s}"]) for s in p.seeds]
            self.domain_names = tuple(self.domains[0])
            table = pd.read_parquet(FOLDER / TABLE)
            self.changes = table[table.seed.isin(p.seeds)].assign(change=table.after - table.before)

    def computed(self) -> measured.Run:
        """The same run with every question's features: computed where only sums are shipped."""
        return measured.Run(self.profile) if self.made else self

    def shifts(self, side: str, field: str = "dh2") -> np.ndarray:
        return measured.Run.shifts(self.computed(), side, field)


def settings(p: Profile) -> dict:
    """What the shipped numbers depend on, as JSON has it."""
    precision = {"sft": {"dtype"}, "evaluation": {"dtype"}}
    return p.model_dump(mode="json", include=set(SETTINGS.split()), exclude=precision)


def fitting(p: Profile) -> dict:
    """What data/shipped says of itself, if it is of these settings and holds the seeds; or {}."""
    path = FOLDER / "made.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    fits = made.get("settings") == settings(p) and {*p.seeds} <= {*made["seeds"]}
    return made if fits else {}


def kept(p: Profile) -> bool:
    """Whether the store holds the features and the performance of a run."""
    tuned = [((run.finetuned, s), p.evaluation.asked) for s in p.seeds]
    calls = [(run.train_features, s) for s in p.seeds]
    calls += [(run.domain_features, d, s) for d in corpora.domains(p.domains) for s in p.seeds]
    calls += [(run.performance,), *((run.performance, *of) for of in tuned)]
    return all(function.path(p, *arguments).exists() for function, *arguments in calls)


def ship(of: Run) -> None:
    """Put a run's sums into data/shipped, in place of what is there."""
    wide = [dims.ids[: WIDE * of.profile.top_n] for dims in of.ranked]
    columns = np.unique(np.concatenate(wide))
    files = {"density": {"share": of.density}, "peaks": of.peaks}
    for i, s in enumerate(of.seeds):
        files |= {f"{side}-{s}": summed({side: getattr(of, side)[i]}) for side in SIDES}
        files[f"domains-{s}"] = summed(of.domains[i], columns)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    for name, values in files.items():
        save_file(values, FOLDER / f"{name}.safetensors")
    of.changes.drop(columns="change").to_parquet(FOLDER / TABLE, compression="zstd", index=False)
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    said = subprocess.run(words, cwd=store.ROOT, capture_output=True, text=True).stdout.strip()
    made = {"commit": said, "date": str(date.today())}
    made |= {"seeds": of.seeds, "settings": settings(of.profile)}
    (FOLDER / "made.json").write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


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


def rows(of: FeatureStats) -> dict[str, FeatureStats]:
    """Each row as statistics of its own, by its name."""
    fields = {k: v for k, v in vars(of).items() if k != "features"}
    each = ({k: v[i : i + 1] for k, v in fields.items()} for i in range(len(of.ids)))
    return {one["ids"][0]: replace(of, **one) for one in each}
