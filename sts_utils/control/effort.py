"""What a score gains by more effort, and what it costs: doses of SFT, demonstrations, tokens."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sts_utils import models
from sts_utils.config import Profile
from sts_utils.control import judgement, matrix, scores, sets
from sts_utils.control.matrix import Matrix
from sts_utils.control.scores import LIKELIHOOD, Score
from sts_utils.runs import samples


def by_dose(whole: Matrix, candidates: Sequence[Score]) -> pd.DataFrame:
    """r of score and change, means removed, on a few sets and the first seed.

    Columns: dose (share of the SFT steps), score, r, low, high.
    """
    profile, seed, rows = whole.profile, whole.seeds[0], []
    names = sets.few(profile.control)
    of_scores = {c.label: scores.values(whole.part(names, [seed]), c) for c in candidates}
    for dose, steps in sets.doses(profile.control).items():
        frames = [[sets.change(profile, name, seed, steps)] for name in names]
        changes = matrix.change_arrays(frames, LIKELIHOOD, whole.domains)
        for label, values in of_scores.items():
            r, _ = judgement.r_centred(values, changes)
            row = {"dose": dose, "score": label, "r": r.value, "low": r.low, "high": r.high}
            rows.append(row)
    return pd.DataFrame(rows)


def by_demonstrations(profile: Profile, candidates: Sequence[Score]) -> pd.DataFrame:
    """Mean rank of the training domain, a row a score, a column a number of demonstrations before
    the training set's questions; on a few sets and the first seed."""
    names, seeds, rows = sets.few(profile.control), profile.control.seeds[:1], []
    for count in sets.counts(profile.control):
        shown = matrix.load(profile, names, seeds, count)
        for candidate in candidates:
            rank = judgement.ranks(shown, candidate).mean()
            row = {"demonstrations": count, "score": candidate.label, "mean rank": rank}
            rows.append(row)
    return pd.DataFrame(rows).pivot(index="score", columns="demonstrations", values="mean rank")


def cost(profile: Profile, name: str, seed: int) -> dict[str, float]:
    """Tokens × blocks of computation, of a score and of the probe run that it competes with.

    A backward pass counts as two forward ones. `score` is what one training set costs (its queries
    without, with its own and with contrasting demonstrations); `domains` what is computed once for
    all training sets.
    """
    settings, domains = profile.control, samples.evaluation_questions(profile)
    cut, depth = profile.layer + 1, models.depth(profile.model, profile.revision)
    tokenizer = samples.tokenizer(profile.model, profile.revision)

    def length(text: str) -> int:
        return len(tokenizer(text).input_ids)

    contexts = [sets.pairs(profile, name, seed, context) for context in ("own", "others")]
    scored = [samples.domain_pairs(profile, domain, seed) for domain in domains]
    mean = np.mean([length(e.query + e.solution) for e in sets.examples(profile, name, seed)])
    asked = [e for group in domains.values() for e in group[: settings.probe_questions]]
    evaluated = sum(length(e.question + " ".join(e.options)) for e in asked)
    trained = 3 * sets.probe_steps(settings) * settings.batch * mean
    return {
        "score": cut * sum(map(_read, contexts)),
        "domains": cut * sum(map(_read, scored)),
        "probe": depth * (trained + evaluated),
    }


def _read(pairs) -> int:
    """Tokens read: each context once, each query behind its context and alone."""
    contexts = {side.context for pair in pairs for side in pair}
    return sum(map(len, contexts)) + sum(2 * len(plain.query) for plain, _ in pairs)
