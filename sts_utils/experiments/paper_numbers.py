"""What the paper's printed numbers can carry: the noise of its outcome, and selection by it."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sts_utils.stats import pearson

#: The paper correlates over so many domains of the largest absolute change, and of the smallest.
EACH = 4
#: True r that are simulated, and how often.
TRUE, DRAWS = np.linspace(0, 0.95, 20), 20_000


def reliability(changes: np.ndarray, questions: np.ndarray, share: float) -> float:
    """1 − mean se² / variance of [D] absolute changes of accuracy, [D] numbers of questions each.

    se² = (q − change²) / questions, q the `share` of questions whose correctness flips; at least
    the change itself, for fewer flips can't make it.
    """
    flipped = np.maximum(share, np.abs(changes))
    return float(1 - ((flipped - changes**2) / questions).mean() / np.abs(changes).var(ddof=1))


def inflate(changes: np.ndarray, mean: float, sd: float, true: float) -> tuple[float, float]:
    """Mean r, over [draws, D] absolute changes, with a score: of all D and of the chosen domains.

    The score is the standardised change × `true` + normal noise, so that r is `true` in the
    population of `mean` and `sd` that the changes are from; the noise is the same for every `true`.
    """
    noise = np.random.default_rng(1).normal(size=changes.shape)
    score = true * (changes - mean) / sd + (1 - true**2) ** 0.5 * noise
    order = np.argsort(changes, axis=-1)
    chosen = np.concatenate([order[:, :EACH], order[:, -EACH:]], axis=-1)
    over = [pearson(score, changes)]
    over.append(pearson(*(np.take_along_axis(of, chosen, -1) for of in (score, changes))))
    return float(over[0].mean()), float(over[1].mean())


def inflation(sizes: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Columns changes, true, all, chosen: `inflate` of each of TRUE, with absolute changes that are
    normal ("of one sign"), half normal (normal ones about 0, "folded at 0"), or the [D] that a
    model's table prints (`sizes`: model -> them)."""
    normal = np.random.default_rng(0).normal(size=(DRAWS, max(map(len, sizes.values()))))
    worlds = {
        "of one sign": (normal, 0, 1),
        "folded at 0": (np.abs(normal), (2 / np.pi) ** 0.5, (1 - 2 / np.pi) ** 0.5),
    }
    for model, of in sizes.items():
        worlds[model] = (np.broadcast_to(of, normal.shape), of.mean(), of.std())
    rows = [(name, r, *inflate(*world, r)) for name, world in worlds.items() for r in TRUE]
    return pd.DataFrame(rows, columns=["changes", "true", "all", "chosen"])


def undone(r: float, curve: pd.DataFrame) -> float:
    """r over all domains where r over the chosen is `r`, by a model's rows of `inflation`."""
    return float(np.interp(r, curve.chosen, curve["all"]))
