"""Whether everything a run needs is there and fits, before anything heavy is loaded."""

import torch

from sts_utils import batches, corpora, models
from sts_utils.config import Profile
from sts_utils.examples import by_domain
from sts_utils.runs import models as held
from sts_utils.runs import samples


def prepare(profile: Profile) -> None:
    """Raise a one-line ValueError for a profile whose parts are missing or do not fit."""
    torch.set_num_threads(batches.cpu_threads())
    if len(set(profile.seeds)) < len(profile.seeds):
        raise ValueError(f"seeds {profile.seeds} holds one twice: give each once")
    if profile.sft.batch % profile.sft.micro_batch:
        of = f"sft.batch is {profile.sft.batch}, sft.micro_batch {profile.sft.micro_batch}"
        raise ValueError(f"{of}: a batch is made of whole micro-batches")
    p, features = profile, held.sae(profile, "cpu").cfg.d_sae
    if p.top_n > features:
        raise ValueError(f"top_n is {p.top_n}, but SAE {p.sae!r} has {features} features")
    if p.runs_paper:
        for other in held.sweep(p):  # from their configs: weights of public SAEs are gigabytes
            models.check(p.model, other.layer, p.revision)
    for corpus in samples.corpora_of(p):
        corpora.load(corpus)
    for run in filter(None, (p, samples.second_domains(p)) if p.runs_paper else ()):
        shown = by_domain(corpora.load(run.demonstrations))
        for domain in samples.evaluation_questions(run):
            if (n := len(shown.get(domain, ()))) < p.sts.demonstrations:
                has = f"has {n} demonstrations in {run.demonstrations!r}"
                asks = f"sts.demonstrations asks for {p.sts.demonstrations}"
                raise ValueError(f"domain {domain!r} {has}, {asks}")
