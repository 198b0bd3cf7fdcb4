"""Every table and figure of the positive control: `draw(control)` gives (it, its caption)."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.figure import Figure

from sts_utils import results
from sts_utils.control import judgement, pictures, scores, sets, transfer
from sts_utils.control.scores import FIXED, LIKELIHOOD, MEASURES, Score
from sts_utils.control.values import Control
from sts_utils.results import MEASURE_NAMES, SHORT_NAMES, Result


def show(draw: Callable[[Control], tuple | None], control: Control) -> None:
    """Draw a figure or table, save it and show it with its caption."""
    drawn = draw(control)
    if drawn is None:  # of skills, or not
        return
    thing, caption = drawn
    results.save(draw.__name__, thing, caption, control.setting, control.profile.name)
    display(thing.round(3) if isinstance(thing, pd.DataFrame) else thing)
    display(Markdown(f"**{caption}**"))


# --- the change, and score beside change -------------------------------------------------------


def control_change(control: Control) -> tuple[pd.DataFrame, str]:
    """Rank of the training domain by the actual change."""
    whole, ranks = control.matrix, {}
    for measure in MEASURES:
        change = np.stack([c.mean(-1) for c in whole.changes(measure)], -1)
        left = np.stack([judgement.centred(of) for of in change.swapaxes(0, 1)], 1)
        ranks[measure] = judgement.own_ranks(left, whole.own)
    table = {"training set": [whole.names[row] for row in whole.own]}
    for measure, of in ranks.items():
        table |= {f"rank by {measure}, seed {s}": of[:, j] for j, s in enumerate(whole.seeds)}
    means = "; ".join(f"{m} {judgement.over_cells(of)}" for m, of in ranks.items())
    return pd.DataFrame(table), (
        "Positive control: rank of the training domain among the domains by the *actual* change "
        f"after fine-tuning, row and column means removed. Mean rank: {means}."
    )


def control_heat_paper(control: Control) -> tuple[Figure, str]:
    """STS_act and the change of the likelihood."""
    return _heat(control, control.paper[1], LIKELIHOOD)


def control_heat(control: Control) -> tuple[Figure, str]:
    """The contrastive score and the change of the likelihood."""
    return _heat(control, FIXED, LIKELIHOOD)


def _heat(control: Control, score: Score, measure: str) -> tuple[Figure, str]:
    whole = control.matrix
    change = np.stack([c.mean((1, 2)) for c in whole.changes(measure)], -1)
    both = [
        pd.DataFrame(judgement.centred(values), whole.names, whole.domains)
        for values in (scores.values(whole, score).mean(1), change)
    ]
    titles = score.label, f"change of {SHORT_NAMES[measure].replace(' × 100', '')}"
    return pictures.heat(*both, whole.own, titles), (
        f"{score.label} (N = {score.n}) before training, left, and change of "
        f"{MEASURE_NAMES[measure]} by fine-tuning, right; a row a training set, mean over seeds, "
        "row and column means removed, each column in its own standard deviations. Boxes mark the "
        "training set's own domain."
    )


# --- judgement --------------------------------------------------------------------------------


def control_judgement(control: Control) -> tuple[pd.DataFrame, str]:
    """What each score finds."""
    half, where = control.half("judgement")
    seeds = ", ".join(map(str, half.seeds))
    return control.judged.drop(columns=["name", "dims"]), (
        f"Positive control, {where} ({', '.join(half.names)}; seeds {seeds}): `first`: share of "
        "training sets and seeds whose own domain has rank 1; `rank`: its mean rank; `r_…`: "
        "correlation with the change over all cells, row and column means removed, with a "
        "permutation test over rows; `within_…`: mean over sets of the correlation over domains."
    )


def control_ranks(control: Control) -> tuple[Figure, str]:
    """Rank of the training domain by each score."""
    half, where = control.half("judgement")
    ranks = {score.label: judgement.ranks(half, score) for score in control.candidates}
    coloured, domains = [score.label for score in control.main], len(half.domains)
    return pictures.rank_strip(ranks, coloured, domains), (
        f"Rank that each score gives the training set's own domain among {domains}, {where}: a "
        "point a training set and seed, the black bar their mean. Coloured: the paper's two scores "
        "and the contrastive one."
    )


def control_goals(control: Control) -> tuple[pd.DataFrame, str]:
    """The goals, and what was reached."""
    row = control.judged.set_index("score").loc[FIXED.label]
    return judgement.goals(row), (
        f"Positive control, {control.half('judgement')[1]}: goals and what {FIXED.label} (N = "
        f"{FIXED.n}) reached, with 95% intervals."
    )


# --- skill or words? ---------------------------------------------------------------------------


def control_gains(control: Control) -> tuple[pd.DataFrame, str] | None:
    """What fine-tuning moved: its own cell, its skill, its words."""
    if not control.skills:
        return None
    of, changes = transfer.kinds(control.matrix), control.matrix.changes(transfer.ODDS)
    sure = transfer.reliability(changes, of)
    return transfer.gains(changes, of), (
        f"Skills × surfaces: change of {MEASURE_NAMES[transfer.ODDS]} in the cell trained on, the "
        "same skill on other surfaces, other skills on the same surface, and neither; 95% over "
        f"training sets and seeds. Split-half reliability over cells {sure:.2f} (asked for: "
        f"{transfer.RELIABLE})."
    )


def control_transfer(control: Control) -> tuple[pd.DataFrame, str] | None:
    """Which scores put the same skill above the same words."""
    if not control.skills:
        return None
    return transfer.judge(control.places), (
        "Skills × surfaces: `auc`, how often a score puts the trained skill's cells above the "
        "trained surface's; `r` with the change off the own cells, less what overlap of words, "
        "surface, length of answers and the training set's mean say; 95% over training sets, p by "
        "permuting them. Read at the query, or between it and the answer."
    )


#: In the order of the report page.
RESULTS = tuple(
    Result(draw, f"Positive control: {title}", kind, sets.NOTEBOOK)
    for draw, title, kind in (
        (control_judgement, "what each score finds", "table"),
        (control_goals, "goals, and what was reached", "table"),
        (control_heat_paper, "the paper's score and the change", "figure"),
        (control_heat, "the contrastive score and the change", "figure"),
        (control_ranks, "rank of the training domain", "figure"),
        (control_change, "did training move its own domain?", "table"),
        (control_gains, "what skills and surfaces gain", "table"),
        (control_transfer, "skill or words?", "table"),
    )
)
