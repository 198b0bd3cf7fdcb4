"""What is generic in an ICL shift: the features that any text in context moves."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from sts_utils import saes
from sts_utils.config import Profile
from sts_utils.control import matrix as control
from sts_utils.control import scores as control_scores
from sts_utils.method import shift
from sts_utils.runs import samples, units

#: Demonstrations in context tried.
COUNTS = (1, 2, 5, 10)


def overlaps_between(
    profile: Profile, sets: Sequence[str], seed: int, which: str = "paper", n: int = 100
) -> pd.DataFrame:
    """[T, T] overlap of D_N between training sets."""
    chosen = {name: control_scores.dims(profile, name, seed, which, n) for name in sets}
    return pd.DataFrame({a: {b: shift.overlap(chosen[a], chosen[b], n) for b in sets} for a in sets})


def generic_features(profile: Profile, seed: int, n: int = 100) -> pd.Series:
    """Feature -> share of the training sets whose D_N holds it, commonest first."""
    ids = np.concatenate([control_scores.dims(profile, name, seed, "paper", n).ids for name in profile.control.sets])
    counted = pd.Series(ids).value_counts(normalize=False) / len(profile.control.sets)
    return counted.rename_axis("feature").rename("share of sets")


def counts(profile: Profile) -> list[int]:
    """Those of COUNTS that half of a training set has."""
    return [count for count in COUNTS if count <= profile.control.examples // 2]


def by_context(profile: Profile, sets: Sequence[str], seed: int, n: int = 100) -> pd.DataFrame:
    """Overlap of a set's D_N with other sets' and with that under prose of the same length, by length of context.

    Columns: demonstrations, tokens, pair ("two sets" or "set and prose"), overlap.
    """
    rows = []
    for count in counts(profile):
        chosen, prose, tokens = {}, {}, {}
        for name in sets:
            pairs = control.pairs(profile, name, seed, "own", count)
            tokens[name] = np.mean([len(icl.context) - len(plain.context) for plain, icl in pairs])
            chosen[name] = shift.shifted_dims(control.shift_stats(profile, name, seed, "own", count), n)
            prose[name] = shift.shifted_dims(control.shift_stats(profile, name, seed, "generic", count), n)
        length = float(np.mean(list(tokens.values())))
        for i, a in enumerate(sets):
            rows.append((count, length, "set and prose", shift.overlap(chosen[a], prose[a], n)))
            rows += [(count, length, "two sets", shift.overlap(chosen[a], chosen[b], n)) for b in sets[i + 1 :]]
    return pd.DataFrame(rows, columns=["demonstrations", "tokens", "pair", "overlap"])


@torch.inference_mode()
def top_contexts(profile: Profile, features: Sequence[int], questions: int = 6, around: int = 6) -> pd.DataFrame:
    """Where each feature fires hardest in the domains' questions: the token and the words around it."""
    tokenizer, sae, model = samples.tokenizer(profile.model), units.sae(profile), units.backbone(profile)
    best = {}
    for group in samples.evaluation_questions(profile).values():
        for example in group[:questions]:
            ids = tokenizer(example.query, add_special_tokens=False).input_ids[:256]
            rows = (
                model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).last_hidden_state[0].float()
            )
            h = saes.encode(sae, rows, list(features)) * (rows.norm(dim=-1) < units.sink_norm(profile))[:, None]
            for j, feature in enumerate(features):
                at = int(h[:, j].argmax())
                if h[at, j] > best.get(feature, (0.0,))[0]:
                    best[feature] = (float(h[at, j]), example.domain, ids, at)
    rows = []
    for feature, (value, domain, ids, at) in best.items():
        before, token, after = ids[max(0, at - around) : at], ids[at : at + 1], ids[at + 1 : at + 1 + around]
        text = f"{tokenizer.decode(before)}⟦{tokenizer.decode(token)}⟧{tokenizer.decode(after)}"
        rows.append({"feature": feature, "activation": value, "domain": domain, "fires hardest on": text})
    return pd.DataFrame(rows)
