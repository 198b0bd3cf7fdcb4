"""Fig 4a to c, Table 12: the run's correlation as read through SAEs that differ in one thing."""

import numpy as np

from sts_utils import corpora, questions, run, sae_training, saes
from sts_utils.config import Profile
from sts_utils.measured import Run
from sts_utils.stats import Correlation, combined

#: What the SAEs differ in, like their width -> metric -> r.
Panel = dict[float, dict[str, Correlation]]


def panels(measured: Run) -> dict[str, Panel]:
    """Name ("widths", "layers", "sparsities") -> r as read through each of the sweep's SAEs."""
    p = measured.profile
    found, r = {"widths": {}, "layers": {}, "sparsities": {}}, {}
    for name, panel in found.items():
        for sae in getattr(p.sweep, name):
            if sae not in r:
                r[sae] = measured.with_sae(sae).correlations()
            read = run.with_sae(p, sae)
            if name == "widths":
                at = run.sae(read).cfg.d_sae
            else:
                at = read.layer if name == "layers" else l0(read)
            panel[at] = r[sae]
    return found


def l0(p: Profile) -> float:
    """Mean number of active features a token of the profile's SAE: k of a TopK SAE, else measured
    on training questions."""
    if known := getattr(run.sae(p).cfg, "k", None):
        return float(known)
    # with the BOS that the model was trained with
    ids = questions.tokenizer(p)([e.query for e in corpora.load(p.train, 0, 64)]).input_ids
    rows = sae_training.activations(run.backbone(p), ids, 4096)
    return saes.quality(run.sae(p), rows)["l0"]


def slope(panel: Panel, metric: str) -> Correlation:
    """Slope of r on log2 of the value in which the SAEs differ."""
    x = np.log2(list(panel))
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return combined(lambda r: np.tensordot(x, r, 1), [row[metric] for row in panel.values()])


def variance(panel: Panel, metric: str) -> Correlation:
    """Variance of r over the SAEs, noise taken off."""
    rows = [row[metric] for row in panel.values()]
    return combined(lambda r: r.var(0, ddof=1), rows).unfolded()
