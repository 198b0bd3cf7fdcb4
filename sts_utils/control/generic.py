"""What is generic in an ICL shift: the features that any text in context moves."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import sets
from sts_utils.control.matrix import Cell
from sts_utils.method import shift
from sts_utils.runs import models as held
from sts_utils.runs import peaks, samples


def overlaps_between(cells: Sequence[Cell], which: str = "paper", n: int = 100) -> pd.DataFrame:
    """[T, T] overlap of D_N between training sets."""
    dims = {cell.name: cell.dims(which, n) for cell in cells}
    return pd.DataFrame({a: {b: shift.overlap(dims[a], dims[b], n) for b in dims} for a in dims})


def generic_features(cells: Sequence[Cell], n: int = 100) -> pd.Series:
    """Feature -> share of the training sets whose D_N holds it, commonest first."""
    ids = np.concatenate([cell.dims("paper", n).ids for cell in cells])
    counted = pd.Series(ids).value_counts(normalize=False) / len(cells)
    return counted.rename_axis("feature").rename("share of sets")


def by_context(profile: Profile, seed: int, n: int = 100) -> pd.DataFrame:
    """Overlap of a set's D_N with other sets' and with that under prose, by length of context.

    Columns: demonstrations, tokens, pair ("two sets" or "set and prose"), overlap.
    """
    names, rows = sets.few(profile.control), []
    for count in sets.counts(profile.control):
        cells = [Cell(profile, name, seed, count) for name in names]
        own, prose = ([cell.ranked[kind] for cell in cells] for kind in ("paper", "prose"))
        shown = [sets.pairs(profile, name, seed, "own", count) for name in names]
        length = float(np.mean([np.mean([_added(*pair) for pair in of]) for of in shown]))
        for i, a in enumerate(own):
            rows.append((count, length, "set and prose", shift.overlap(a, prose[i], n)))
            others = [shift.overlap(a, b, n) for b in own[i + 1 :]]
            rows += [(count, length, "two sets", overlap) for overlap in others]
    return pd.DataFrame(rows, columns=["demonstrations", "tokens", "pair", "overlap"])


def _added(plain, icl) -> int:
    """Tokens that demonstrations put before a query."""
    return len(icl.context) - len(plain.context)


def top_contexts(
    profile: Profile, features: Sequence[int], questions: int = 6, around: int = 6
) -> pd.DataFrame:
    """Where each feature fires hardest in the domains' questions: the token and words around it."""
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    model, hook = held.backbone(profile), held.hook(profile)
    groups, best = samples.evaluation_questions(profile).values(), {}
    for example in [e for group in groups for e in group[:questions]]:
        ids = tokenizer(example.query, add_special_tokens=False).input_ids[:256]
        h = peaks.activations(model, hook, ids, list(features), first=0)
        for j, feature in enumerate(features):
            at = int(h[:, j].argmax())
            if h[at, j] > best.get(feature, (0.0,))[0]:
                best[feature] = (float(h[at, j]), example.domain, ids, at)
    rows = []
    for feature, (value, domain, ids, at) in best.items():
        parts = ids[max(0, at - around) : at], ids[at : at + 1], ids[at + 1 : at + 1 + around]
        before, token, after = map(tokenizer.decode, parts)
        row = {"feature": feature, "activation": value, "domain": domain}
        rows.append(row | {"fires hardest on": f"{before}⟦{token}⟧{after}"})
    return pd.DataFrame(rows)
