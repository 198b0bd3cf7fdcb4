"""One file an experiment of the paper: what it computes, draws and claims.

Every module has `compute(run)`, the numbers that it is drawn from, and RESULTS, its figures and
tables, whose `draw(numbers, run)` gives (it, caption). Most have `claims(numbers, run)`, and those
that need more than the base run `steps(profile)`: what is computed ahead, anywhere.
"""

from collections.abc import Collection
from types import ModuleType

from IPython.display import display

from sts_utils import results
from sts_utils.experiments import (
    fig1a,
    fig1b,
    fig2a,
    fig2b,
    fig3,
    fig4_saes,
    fig4d,
    fig4e,
    fig5,
    fig6,
    fig7,
    paper_numbers,
    table1,
    tables2_4,
    tables7_8,
    training,
)
from sts_utils.results import Claim
from sts_utils.runs.run import Run

#: In the order of the paper.
EXPERIMENTS: tuple[ModuleType, ...] = (
    *(fig1a, fig1b, fig2a, fig2b, fig3, fig4_saes, fig4d, fig4e, fig5, fig6, fig7),
    *(table1, tables2_4, tables7_8, training, paper_numbers),
)


def show(experiment: ModuleType, run: Run, wanted: Collection[str] | None = None) -> list[Claim]:
    """Compute an experiment; draw, save and show those of its results that are `wanted` (all if
    None) with their verdicts. Returns its claims."""
    chosen = [r for r in experiment.RESULTS if wanted is None or r.name in wanted]
    if not chosen:
        return []
    numbers = experiment.compute(run)
    for result in chosen:
        drawn = result.draw(numbers, run)
        if drawn is None:  # the run has nothing to draw it from
            continue
        thing, caption = drawn
        results.show(result.name, thing, caption, run.setting, run.profile.name)
    claims = list(experiment.claims(numbers, run)) if hasattr(experiment, "claims") else []
    if claims:
        columns = ["claim", "statistic", "value", "low", "high", "verdict"]
        display(results.shown(results.judged(claims)[columns]))
    return claims
