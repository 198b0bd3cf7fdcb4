"""Every table and figure of the positive control: `draw(control)` gives (it, its caption)."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sts_utils import results
from sts_utils.control import judgement, pictures, readings, scores, steps
from sts_utils.control.judgement import GOALS, LIKELIHOOD, ODDS, RELIABLE
from sts_utils.control.scores import FIXED
from sts_utils.control.values import Control
from sts_utils.results import MEASURE_NAMES, Result


def show(draw: Callable[[Control], tuple], control: Control) -> None:
    """Draw a figure or table, save it and show it with its caption."""
    thing, caption = draw(control)
    results.show(draw.__name__, thing, caption, control.setting, control.profile.name)


# --- skill or words? ---------------------------------------------------------------------------


def control_gains(control: Control) -> tuple[pd.DataFrame, str]:
    """What fine-tuning moved: its own cell, its skill, its words."""
    tables, told = [], []
    for half in ("design", "judgement"):
        table, sure = judgement.gains(control.parts[half])
        tables.append(table.assign(half=half))
        skill = table.set_index("cells").change_low["skill"]
        passed = "passed" if sure >= RELIABLE and skill > 0 else "not passed"
        told.append(f"{half} {sure:.2f}, gates {passed}")
    return pd.concat(tables, ignore_index=True), (
        f"Skills × surfaces: change of {MEASURE_NAMES[ODDS]} in the cell trained on, the same "
        "skill on other surfaces, other skills on the same surface, and neither; 95% over "
        f"training sets and seeds. Gates, set before: split-half reliability of {RELIABLE} over "
        f"cells, and a gain of the same skill above zero. Reliability: {'; '.join(told)}."
    )


def control_heat(control: Control) -> tuple[Figure, str]:
    """The change, and two scores of it."""
    whole = control.parts["judgement"]
    of = judgement.kinds(whole)
    change = np.stack([c.mean((1, 2)) for c in whole.changes(ODDS)], -1)
    act = control.candidates[0]
    shown = {s.label: scores.values(whole, s).mean(1) for s in (act, FIXED)}
    shown["change by fine-tuning"] = change
    frames = {k: pd.DataFrame(v, whole.names, whole.domains) for k, v in shown.items()}
    return pictures.heat(frames, of), (
        f"{act.label}, {FIXED.label} and the change of {MEASURE_NAMES[ODDS]}: a row a "
        "training set, a column a domain with the same type of answer, each row in its own "
        "standard deviations; mean over seeds. Boxes mark the cell trained on; the dots, the same "
        "skill in other words; the crosses, another skill in the same words."
    )


def control_aucs(control: Control) -> tuple[Figure, str]:
    """How often each score puts the same skill above the same words."""
    return pictures.aucs(control.judged, [FIXED.label]), (
        "Skills × surfaces: how often each score puts the trained skill in other words above "
        "another skill in the trained words; 0 follows words, 1 follows skill; 95% over training "
        "sets and seeds. Coloured: the score fixed on the design half before the judgement half "
        "was scored."
    )


def control_judgement(control: Control) -> tuple[pd.DataFrame, str]:
    """Which scores follow the skill, judged once."""
    return _judged(control, "judgement")


def control_design(control: Control) -> tuple[pd.DataFrame, str]:
    """The same on the half that the score was chosen on."""
    return _judged(control, "design")


def _judged(control: Control, half: str) -> tuple[pd.DataFrame, str]:
    names = sorted({name.split(", ")[0] for name in control.parts[half].names})
    return control.judged[half], (
        f"Skills × surfaces, {half} half ({', '.join(names)}): `auc`, how often a score puts the "
        "trained skill's cells above the trained surface's; `r` with the change off the own cells, "
        "less what overlap of words, surface, length of answers and the training set's mean say; "
        "95% over training sets (and seeds, for `auc`), p by permuting training sets."
    )


def control_goals(control: Control) -> tuple[pd.DataFrame, str]:
    """The goals, and what was reached."""
    part = control.parts["judgement"]
    row, profile = control.judged["judgement"].set_index("score").loc[FIXED.label], part.profile
    cost = np.mean([readings.cost(profile, name, part.seeds[0]) for name in part.names])
    rows = []
    for what, goal in GOALS.items():
        reached = cost if what == "cost" else row[what]
        met = reached <= goal if what == "cost" else reached >= goal
        found = {"what": what, "goal": goal, "reached": reached}
        found |= {k: row.get(f"{what}_{k}", np.nan) for k in ("low", "high")}
        rows.append(found | {"verdict": "reached" if met else "not reached"})
    return pd.DataFrame(rows), (
        f"Positive control, judgement half: goals set before, and what {FIXED.label} reached. "
        "`cost`: what it reads of a training set, of what fine-tuning on that computes (tokens × "
        "blocks); the domains are read once for all training sets, and not in it, nor is the "
        "evaluation in fine-tuning's."
    )


# --- topics ------------------------------------------------------------------------------------


def control_topics(control: Control) -> tuple[pd.DataFrame, str]:
    """Do score and change agree beyond overlap of words?"""
    matrix = control.parts["topics"]
    tried = [s for s in control.candidates if s.place == "query" or s == FIXED]
    return judgement.topics(matrix, tried), (
        "Training sets that are MMLU categories: `first`, how often a score puts the set's own "
        f"category first (exact binomial interval of {len(matrix.names)} sets). Off the diagonal "
        "and without mathematics, set and domain means removed: `r` of score and change of "
        f"{MEASURE_NAMES[LIKELIHOOD]}; `above`, r less that of the overlap of words (paired draws "
        "of training sets); `beyond`, r less what the overlap says, p by permuting training sets."
    )


#: In the order of the report page.
RESULTS = tuple(
    Result(draw, f"Positive control: {title}", kind, steps.NOTEBOOK)
    for draw, title, kind in (
        (control_gains, "what skills and words gain", "table"),
        (control_aucs, "skill or words?", "figure"),
        (control_judgement, "skill or words, judged once", "table"),
        (control_goals, "goals, and what was reached", "table"),
        (control_heat, "two scores and the change", "figure"),
        (control_design, "skill or words, design half", "table"),
        (control_topics, "topics beyond overlap of words", "table"),
    )
)
