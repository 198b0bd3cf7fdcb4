"""Fig 4a–c, Table 12: the correlation read through SAEs of other widths, layers and sparsities."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sts_utils import corpora, results, saes
from sts_utils.config import Profile
from sts_utils.results import Claim, Result, r_panel
from sts_utils.runs import models, samples
from sts_utils.runs.run import Run
from sts_utils.sae_training import activations
from sts_utils.scores import PAPER_SCORES
from sts_utils.stats import Correlation, combined

#: "The layer matters little" is judged by a standard deviation of r over layers below this, fixed
#: before looking.
LITTLE = 0.1


class Panel(NamedTuple):
    """SAEs that differ in one thing: `at`, its value of each, and `r`, metric -> r of each."""

    at: list[float]
    r: list[dict[str, Correlation]]

    @property
    def rows(self) -> dict[str, dict[str, Correlation]]:
        """The value in words -> metric -> r."""
        return {f"{x:g}": row for x, row in zip(self.at, self.r, strict=True)}


def compute(run: Run) -> dict[str, Panel]:
    """The panels "widths", "layers" and "sparsities": r of the run as read through each SAE."""
    profile, sweep = run.profile, run.profile.sweep
    r = {}
    for name in sorted({*sweep.widths, *sweep.layers, *sweep.sparsities}):
        r[name] = (run if name == profile.sae else run.with_sae(name)).correlations()

    def panel(names: Sequence[str], at: Callable[[Profile], float]) -> Panel:
        read = [models.with_sae(profile, name) for name in names]
        return Panel([at(p) for p in read], [r[name] for name in names])

    return {
        "widths": panel(sweep.widths, lambda p: models.sae(p, "cpu").cfg.d_sae),
        "layers": panel(sweep.layers, lambda p: p.layer),
        "sparsities": panel(sweep.sparsities, l0),
    }


def l0(profile: Profile) -> float:
    """Mean number of active features a token of the profile's SAE: k of a TopK SAE, else measured
    on training questions."""
    if known := getattr(models.sae(profile, "cpu").cfg, "k", None):
        return float(known)
    questions = [e.query for e in corpora.load(profile.train, 0, 64)]
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    ids = tokenizer(questions).input_ids  # with the BOS that the model was trained with
    rows = activations(models.backbone(profile), ids, 4096)
    return saes.quality(models.sae(profile), rows)["l0"]


def fig4a(numbers: dict[str, Panel], run: Run) -> tuple[Figure, str] | None:
    """r by the SAE's width."""
    what = (
        f"{run.profile.domains}, for SAEs of {len(numbers['widths'].at)} widths at one layer and L0"
    )
    theirs = "wider (131k against 16k) is lower"
    return r_panel("Fig 4a", numbers["widths"].rows, "SAE features", what, theirs)


def fig4b(numbers: dict[str, Panel], run: Run) -> tuple[Figure, str] | None:
    """r by the block that the SAE reads."""
    what = f"{run.profile.domains}, for SAEs at {len(numbers['layers'].at)} layers"
    theirs = "stable over layers 15, 20, 25"
    return r_panel("Fig 4b", numbers["layers"].rows, "block", what, theirs)


def fig4c(numbers: dict[str, Panel], run: Run) -> tuple[Figure, str] | None:
    """r by the SAE's L0."""
    what = f"{run.profile.domains}, for SAEs of {len(numbers['sparsities'].at)} sparsities"
    theirs = "falls from 0.78 at L0 13 to 0.65 at 109"
    return r_panel("Fig 4c", numbers["sparsities"].rows, "L0 of the SAE", what, theirs)


def table12(numbers: dict[str, Panel], run: Run) -> tuple[pd.DataFrame, str]:
    """r against the SAE's L0."""
    common, rows = {"source": "ours", "model": run.profile.model}, []
    for at, row in zip(numbers["sparsities"].at, numbers["sparsities"].r, strict=True):
        for metric, e in row.items():
            rows.append({**common, "l0": at, "metric": metric, **results.numbers(e)})
    for r in results.paper("table12_sparsity").itertuples():
        rows.append({"source": "paper", "model": r.model, "l0": r.l0, "value": r.pearson})
    of = run.profile.domains
    caption = f"Table 12. r of score and absolute change over {of} against the SAE's L0."
    return pd.DataFrame(rows), caption


def claims(numbers: dict[str, Panel], run: Run) -> Iterator[Claim]:
    """r falls with width and with L0, and hardly depends on the layer."""
    falls = {
        "fig4a": (numbers["widths"], "width", "a narrower SAE predicts better"),
        "table12": (numbers["sparsities"], "L0", "a sparser SAE predicts better"),
    }
    for figure, (panel, what, claim) in falls.items():
        for metric in PAPER_SCORES if len(panel.at) > 1 else ():
            statistic = f"{metric}: slope of r on log2 {what}"
            yield Claim(figure, claim, statistic, slope(panel, metric))
    for metric in PAPER_SCORES if len(numbers["layers"].at) > 1 else ():
        of = [row[metric] for row in numbers["layers"].r]
        spread = combined(lambda r: r.var(0, ddof=1), of).unfolded()
        statistic = f"{metric}: variance of r over layers, noise taken off, minus {LITTLE}²"
        yield Claim("fig4b", "the layer matters little", statistic, spread - LITTLE**2)


def slope(panel: Panel, metric: str) -> Correlation:
    """Slope of r on log2 of the value in which the SAEs differ."""
    x = np.log2(panel.at)
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return combined(lambda r: np.tensordot(x, r, 1), [row[metric] for row in panel.r])


RESULTS = (
    Result(fig4a, "Fig 4a: width of the SAE"),
    Result(fig4b, "Fig 4b: layer of the SAE"),
    Result(fig4c, "Fig 4c: sparsity of the SAE"),
    Result(table12, "Table 12: correlation against L0", "table"),
)
