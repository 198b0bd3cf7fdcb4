"""What STS is compared with: other SAEs, ranks, training sets and predictors (Fig 4, Tables 1, 5, 12, 13)."""

from functools import cache

from sts_utils import corpora, models, saes, stats
from sts_utils.config import Profile
from sts_utils.experiments import baselines, overlap
from sts_utils.runs import performance as performances
from sts_utils.runs import samples, units
from sts_utils.stats import Estimate
from sts_utils.training import saes as training_saes
from sts_utils.training import sft as finetune


def correlations(profile: Profile, **more) -> dict[str, Estimate]:
    """Metric -> r over all domains with the absolute change; arguments as `performances.observations`."""
    return {metric: stats.r(seen) for metric, seen in performances.observations(profile, **more).items()}


@cache
def sweep(profile: Profile, names: tuple[str, ...]) -> dict[str, dict[str, Estimate]]:
    """SAE -> r of each metric."""
    return {name: correlations(units.with_sae(profile, name)) for name in names}


def block(profile: Profile, name: str) -> int:
    """The block that an SAE reads."""
    return units.with_sae(profile, name).layer


def width(profile: Profile, name: str) -> int:
    """Features of an SAE."""
    return units.sae(units.with_sae(profile, name)).cfg.d_sae


@cache
def l0(profile: Profile, name: str) -> float:
    """Mean number of active features a token of an SAE: k of a TopK SAE, else measured on training questions."""
    run = units.with_sae(profile, name)
    if known := getattr(units.sae(run).cfg, "k", None):
        return float(known)
    questions = [e.query for e in corpora.load(profile.train, 0, 64)]
    ids = samples.tokenizer(profile.model, profile.revision)(questions, add_special_tokens=False).input_ids
    return saes.quality(units.sae(run), training_saes.activations(units.backbone(run), ids, 4096))["l0"]


@cache
def rank_ranges(profile: Profile, ranges: int = 6) -> dict[tuple[int, int], dict[str, Estimate]]:
    """(first, last) rank -> r of each metric with the dims of those ranks in place of D_N."""
    n, found = profile.top_n, {}
    ranked = {seed: units.dims(profile, seed, None) for seed in profile.seeds}
    for start in range(0, min(ranges * n, len(ranked[profile.seeds[0]]) - n + 1), n):
        chosen = {seed: dims[start : start + n] for seed, dims in ranked.items()}
        found[start + 1, start + n] = correlations(profile, chosen=chosen)
    return found


@cache
def predictors(profile: Profile) -> dict[str, Estimate]:
    """r of every predictor of Tables 5 and 13 with the absolute change."""
    domains = tuple(samples.evaluation_questions(profile))
    changed = performances.change_arrays(profile)
    plain = [[units.domain_stats(profile, d, s) for d in domains] for s in profile.seeds]
    train = [units.train_stats(profile, s) for s in profile.seeds]
    both = [
        [(before, units.domain_after(profile, d, s)) for d, before in zip(domains, row, strict=True)]
        for s, row in zip(profile.seeds, plain, strict=True)
    ]

    def of(rows, score_of):
        scored = [
            [(len(own.n), lambda w, f=f, s=s: score_of(f, s, w)) for f, own in zip(row, plain[s], strict=True)]
            for s, row in enumerate(rows)
        ]
        return stats.r(baselines.observations(domains, scored, changed))

    return {
        "feature_activations": of(plain, lambda f, s, w: baselines.mean_activation(f, w)),
        "similarity_domain_to_training_set": of(plain, lambda f, s, w: baselines.similarity(f, train[s], w)),
        "similarity_before_after_sft": of(both, lambda f, s, w: baselines.moved(*f, w)),
        "probe_raw_activations": baselines.probe_r(plain, "r", changed),
        "probe_sae_activations": baselines.probe_r(plain, "h", changed),
        **correlations(profile),
    }


def costs(profile: Profile) -> dict[str, float]:
    """Predictor -> floating-point operations for one seed and all domains, counted: 2 a weight and token of a
    forward pass, 6 of a training step; tokens as this run uses them."""
    seed = profile.seeds[0]
    weights = models.size(profile.model, profile.revision)
    plain, icl = (
        sum(
            len(pair[side].ids)
            for d in samples.evaluation_questions(profile)
            for pair in samples.domain_pairs(profile, d, seed)
        )
        for side in (0, 1)
    )
    training = [len(pair[side].ids) for pair in samples.training_pairs(profile, seed) for side in (0, 1)]
    examples = samples.training_examples(profile, seed)[0][: profile.sft.examples]
    rows = finetune.tokenize(samples.tokenizer(profile.model, profile.revision), examples, profile.sft.max_length)
    sft = 6 * weights * profile.sft.epochs * sum(len(row["input_ids"]) for row in rows)
    forward = 2 * weights
    return {
        "feature_activations": forward * plain,
        "similarity_domain_to_training_set": forward * (plain + sum(training[::2])),
        "similarity_before_after_sft": sft + 2 * forward * plain,
        "probe_raw_activations": sft + forward * plain,
        "probe_sae_activations": sft + forward * plain,
        "sts_act": forward * (plain + sum(training)),
        "sts_icl": forward * (plain + icl + sum(training)),
    }


def ranges_by_name(profile: Profile) -> dict[str, dict[str, Estimate]]:
    """`rank_ranges`, the range in words."""
    return {f"{first}–{last}": row for (first, last), row in rank_ranges(profile).items()}


def against_probes(profile: Profile) -> dict[str, dict[str, Estimate]]:
    """STS and the two probes, for Fig 4e."""
    names = {
        "sts_act": "STS act",
        "sts_icl": "STS ICL",
        "probe_raw_activations": "probe, raw",
        "probe_sae_activations": "probe, SAE",
    }
    return {words: {"r": predictors(profile)[name]} for name, words in names.items()}


@cache
def training_sets(profile: Profile) -> dict[str, dict[str, Estimate]]:
    """Training set -> r of each metric, and the overlap of estimated and actual dims at N."""
    found = {}
    for corpus in (profile.train, *profile.others):
        run = profile if corpus == profile.train else samples.trained_on(profile, corpus)
        found[corpora.source(corpus)] = correlations(run) | {"overlap": overlap.of_dims(run)}
    return found
