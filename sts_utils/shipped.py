"""The default run's sums, in data/shipped: from a clone its first notebooks open at once."""

import json
from dataclasses import replace
from functools import cached_property

import pandas as pd
from safetensors.numpy import load_file

from sts_utils import corpora, measured, run, store
from sts_utils.config import Profile
from sts_utils.experiments import labels
from sts_utils.features import FeatureStats

PROFILE, FOLDER = "smol", store.DATA / "shipped"
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
        last = run.domain_features.path(p, corpora.domains(p.domains)[-1], p.seeds[-1])
        self.made = {} if last.exists() else fitting(p)
        if self.made:
            print(
                "Not computed here: read from data/shipped, of commit {commit}.".format(**self.made)
            )
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


def settings(p: Profile) -> dict:
    """What the shipped numbers depend on, as JSON has it."""
    precision = {"sft": {"dtype"}, "evaluation": {"dtype"}}
    return p.model_dump(mode="json", include=set(SETTINGS.split()), exclude=precision)


def fitting(p: Profile) -> dict:
    """What data/shipped says of itself, if it is of these settings and holds the seeds; or {}."""
    path = FOLDER / "made.json"
    made = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return made if made.get("settings") == settings(p) and {*p.seeds} <= {*made["seeds"]} else {}


def rows(of: FeatureStats) -> dict[str, FeatureStats]:
    """Each row as statistics of its own, by its name."""
    fields = {k: v for k, v in vars(of).items() if k != "features"}
    each = ({k: v[i : i + 1] for k, v in fields.items()} for i in range(len(of.ids)))
    return {one["ids"][0]: replace(of, **one) for one in each}
