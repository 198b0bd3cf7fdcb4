"""Why a prediction: the most shifted features, where they fire and which words they promote."""

from itertools import pairwise

import numpy as np
import pandas as pd

from sts_utils import run
from sts_utils.experiments.labels import activations, promoted
from sts_utils.prediction.sources import drawn

#: Texts read of the training set, and of each domain, a sample; their tokens at most; tokens shown
#: before and after a peak; texts and domains shown of a feature.
TRAIN_TEXTS, DOMAIN_TEXTS, TOKENS, AROUND, SPANS, DOMAINS = 32, 4, 256, 10, 2, 3
#: Stands for a domain's name where the text is the training set's.
OWN = "the training set"


def explain(prediction, k: int = 10) -> pd.DataFrame:
    """The `k` most shifted features, a row a text where one fires hardest: of the training set
    first, then of the domains.

    Columns: feature, shift (E_x (Δh)²), promotes (tokens whose logits its decoder row raises most),
    used_by (the domains that use it most, with its mean activation), link (to Neuronpedia), domain,
    peak, text (the token of the peak between ⟦ and ⟧). Raises ValueError for a k there is not.
    """
    p, shifts = prediction.profile, prediction.shifts
    if not 1 <= k <= len(shifts):
        raise ValueError(f"k is {k}: choose 1..{len(shifts)} features")
    ids, rows = np.argsort(-shifts, kind="stable")[:k], []
    known = run.sae(p).cfg.metadata.neuronpedia_id
    seeds = prediction.domain_stats
    means = {d: np.mean([of[d].mean("h") for of in seeds], axis=0) for d in prediction.domains}
    spans = _spans(prediction, ids)
    for feature, words, places in zip(ids.tolist(), promoted(p, ids), spans, strict=True):
        using = sorted(((float(means[d][feature]), d) for d in means), reverse=True)[:DOMAINS]
        row = {"feature": feature, "shift": float(shifts[feature]), "promotes": " ".join(words)}
        row["used_by"] = ", ".join(f"{d} ({mean:.3g})" for mean, d in using if mean > 0)
        row["link"] = f"https://www.neuronpedia.org/{known}/{feature}" if known else ""
        hardest = sorted({span[1:]: span for span in places}.values(), key=lambda span: -span[1])
        sides = [[s for s in hardest if (s[0] == OWN) == own][:SPANS] for own in (True, False)]
        for span in [*sides[0], *sides[1]] or [("", 0.0, "")]:
            rows.append(row | dict(zip(("domain", "peak", "text"), span, strict=True)))
    return pd.DataFrame(rows)


def _spans(prediction, ids: np.ndarray) -> list[list[tuple[str, float, str]]]:
    """For each feature (domain, peak, text around it) of every text where it fires, of a sample of
    the training set and of each domain."""
    p, spans = prediction.profile, [[] for _ in ids]
    model, hook, tokenizer = run.backbone(p), run.hook(p), run.tokenizer(p)
    chosen = [(OWN, e) for e in drawn(prediction.train, TRAIN_TEXTS)]
    for domain in prediction.domains:
        chosen += [(domain, e) for e in drawn(prediction.questions[domain], DOMAIN_TEXTS)]
    for domain, e in chosen:
        text = f"{e.query}\n{e.solution}".strip()
        read = tokenizer(text, return_offsets_mapping=True)  # with BOS where the model has one
        ends = [0, *(stop for _, stop in read.offset_mapping[:TOKENS])]  # shown once, if shared
        if len(ends) <= 2:
            continue
        h = activations(model, hook, read.input_ids[:TOKENS], ids).T.cpu().numpy()
        for of_feature, fired in zip(spans, h, strict=True):
            at, peak = int(fired.argmax()), float(fired.max())
            if peak > 0:
                last = min(len(fired), at + AROUND + 1)
                cuts = ends[max(0, at - AROUND)], ends[at], ends[at + 1], ends[last]
                before, token, after = (text[a:b] for a, b in pairwise(cuts))
                of_feature.append((domain, peak, f"{before}⟦{token}⟧{after}"))
    return spans
