"""The transfer matrix: what is read of each training set beside the paper's scores (ours)."""

import numpy as np
import pandas as pd

from sts_utils import evaluate, questions, run
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.gradients import pulls

PROBE_EXAMPLES, PROBE_QUESTIONS = 16, 8  # learned in a probe; asked of a domain


@cached(*run.READ, "train", "shift.held_out", *run.DOMAINS, "evaluation.dtype")
def gradients(p: Profile, domain: str | None = None) -> dict[str, np.ndarray]:
    """Pulls (gradients.py) of the training set's solutions, or of a domain's gold options; as many
    questions of either."""
    seed = p.seeds[0]
    chosen = questions.domain_queries(p, domain, seed) if domain else None
    return pulls(p, (chosen or questions.training_examples(p, seed)[0])[: p.sts.queries])


@cached(*run.ASKED, "train", "shift.held_out", "sft", "evaluation.asked")
def probe(p: Profile) -> pd.DataFrame:
    """Performance after a quick probe on the training set, first seed: a row a question, none of
    which the outcome asks too."""
    seed, desc, first = p.seeds[0], f"probe {p.train}", p.evaluation.asked or 0
    learned = questions.training_examples(p, seed)[0][:PROBE_EXAMPLES]
    model = run.briefly_tuned(p, learned, 10 * p.sft.lr, seed, desc)
    groups, last = questions.evaluation_questions(p).values(), first + PROBE_QUESTIONS
    asked = [e for of in groups for e in of[first:last]]
    return evaluate.option_likelihoods(model, questions.tokenizer(p), asked, desc=desc)
