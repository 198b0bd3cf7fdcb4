"""The paper's further experiments, each on the same base run: what they compute, before anything is drawn."""

import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file

from sts_utils import (
    baselines,
    data,
    evaluate,
    finetune,
    generation,
    labels,
    models,
    saes,
    samples,
    shift,
    stats,
    store,
    units,
)
from sts_utils.config import Profile
from sts_utils.data import Example
from sts_utils.interventions import SelectiveMaps, edited, zeroed
from sts_utils.stats import Estimate
from sts_utils.units import Trained


def trained_on(profile: Profile, corpus: str) -> Profile:
    """The run with another training set, its first seed alone."""
    sft = profile.sft.model_copy(update={"examples": profile.others_examples})
    asked = profile.evaluation.model_copy(update={"asked": profile.others_questions})
    return profile.model_copy(
        update={"seeds": profile.seeds[:1], "train": corpus, "sft": sft, "evaluation": asked}
    )  # fmt: skip


def correlations(profile: Profile, **more) -> dict[str, Estimate]:
    """Metric -> r over all domains with the absolute change; arguments as `units.observations`."""
    return {metric: stats.r(seen) for metric, seen in units.observations(profile, **more).items()}


def overlap(estimated: np.ndarray, actual: np.ndarray, k: int) -> Estimate:
    """Overlap of the top-k sets of shifts [1 + B, S, F], the first row the observed ones, mean over seeds."""
    found = shift.overlaps(estimated, actual, np.array([k]))[..., 0]
    return Estimate(float(found[0].mean()), stats.over_seeds(found[1:]))


# --- Fig 1a, 2a, 2b: the shift of SFT ----------------------------------------------------------


@cache
def concentration(profile: Profile) -> dict[str, Estimate]:
    """Share of SFT's change that the top N features hold, and the top 1% of SAE and of raw dims."""
    actual = [units.actual_stats(profile, seed) for seed in profile.seeds]

    def held(raw, k):
        moved = np.sort(observed_and_drawn(actual, raw), axis=-1)[..., ::-1]
        k = k or max(1, round(0.01 * moved.shape[-1]))
        share = moved[..., :k].sum(-1) / moved.sum(-1)
        return Estimate(float(share[0].mean()), stats.over_seeds(share[1:]))

    return {"top N": held(False, profile.top_n), "SAE": held(False, None), "raw": held(True, None)}


@cache
def dims_overlap_of(profile: Profile) -> dict[str, Estimate]:
    """Overlap of estimated and actual dims: of SAE features at N, and of raw dims at the same fraction."""
    share = profile.top_n / len(units.train_stats(profile, profile.seeds[0]).features)
    chance = Estimate(share, np.array([share]))
    found = {"SAE": dims_overlap(profile), "raw": dims_overlap(profile, raw=True)}
    return found | {"SAE chance": chance, "raw chance": chance}


# --- Fig 1b: zeroing features ------------------------------------------------------------------


def ablation(profile: Profile) -> pd.DataFrame:
    """Log-likelihood of held-out mathematics solutions while features are zeroed in the fine-tuned model.

    Columns: id, solution_loglik, features ("none", "shifted", "random", "active"), count, draw. `shifted`
    are the features that SFT moved most; `active` are random ones, as active on average as those.
    """
    seed, settings = profile.seeds[0], profile.ablation
    model = units.finetuned(profile, seed)
    examples = samples.training_examples(profile, 0)[1][: settings.questions]

    def compute():
        actual = units.actual_stats(profile, seed)
        whole, tokenizer = units.performing(profile, model), samples.tokenizer(profile.model, profile.revision)
        sae, limit = units.sae(profile), units.sink_norm(profile)
        frames = []
        for (name, count, draw), features in ablated(actual, settings.counts, settings.draws).items():
            with edited(whole, {profile.layer: zeroed(sae, features, limit)} if count else {}):
                frame = evaluate.solution_loglik(whole, tokenizer, examples, profile.sft.max_length)
            frames.append(frame.assign(features=name, count=count, draw=draw))
        return pd.concat(frames, ignore_index=True)

    recipe = {
        **settings.model_dump(), "sae": profile.sae, "layer": profile.layer, "trained": model.key,
        "shift": profile.shift.model_dump(), "dtypes": (profile.dtype, profile.evaluation.dtype),
    }  # fmt: skip
    return store.frame("ablation", recipe, compute)


def ablated(actual, counts, draws: int) -> dict[tuple[str, int, int], np.ndarray]:
    """(which, count, draw) -> features to zero; "active" are drawn among the next of like mean activation."""
    ranked = shift.shifted_dims(actual, None).ids
    activity = np.argsort(-actual.mean("h"), kind="stable")
    place = np.empty(len(activity), dtype=int)
    place[activity] = np.arange(len(activity))
    chosen = {("none", 0, 0): np.array([], dtype=int)}
    for count in (c for c in counts if c <= len(ranked)):
        chosen["shifted", count, 0] = ranked[:count]
        for draw in range(draws):
            rng = np.random.default_rng((count, draw))
            chosen["random", count, draw] = rng.choice(len(ranked), count, replace=False)
            chosen["active", count, draw] = _like(place[ranked[:count]], activity, rng)
    return chosen


def _like(places: np.ndarray, activity: np.ndarray, rng) -> np.ndarray:
    """For each place in the order of activity a feature near it, none twice and none at those places if possible."""
    taken, found = set(places.tolist()), []
    for place in rng.permutation(places):
        free = [p for p in range(len(activity)) if p not in taken] or list(set(places.tolist()) - set(found))
        taken.add(pick := int(rng.choice(sorted(free, key=lambda p: abs(p - place))[:5])))
        found.append(pick)
    return activity[found]


@cache
def ablation_estimates(profile: Profile) -> dict[tuple[str, int], Estimate]:
    """(which, count) -> change of the mean log-likelihood a token against nothing zeroed."""
    table = ablation(profile)
    intact = table[table.features == "none"].set_index("id").solution_loglik
    found = {}
    for (name, count), group in table[table.features != "none"].groupby(["features", "count"]):
        change = group.pivot(index="draw", columns="id", values="solution_loglik")[intact.index] - intact
        values = change.to_numpy()
        found[name, count] = Estimate(float(values.mean()), stats.mean_draws(values))
    return found


# --- Table 1: other training sets --------------------------------------------------------------


@cache
def training_sets(profile: Profile) -> dict[str, dict[str, Estimate]]:
    """Training set -> r of each metric, and the overlap of estimated and actual dims at N."""
    found = {}
    for corpus in (profile.train, *profile.others):
        run = profile if corpus == profile.train else trained_on(profile, corpus)
        found[data.source(corpus)] = correlations(run) | {"overlap": dims_overlap(run)}
    return found


def dims_overlap(profile: Profile, after: Mapping[int, Trained] | None = None, raw: bool = False) -> Estimate:
    """Overlap at N of the dims that demonstrations find and those that training moves; `raw`: of residual
    dims, at the same fraction."""
    estimated = [units.train_stats(profile, seed) for seed in profile.seeds]
    actual = [units.actual_stats(profile, seed, after and after[seed]) for seed in profile.seeds]
    drawn = [observed_and_drawn(side, raw) for side in (estimated, actual)]
    share = profile.top_n / len(estimated[0].features)
    return overlap(*drawn, max(1, round(share * drawn[0].shape[-1])))


def observed_and_drawn(features, raw: bool = False, draws: int = 200) -> np.ndarray:
    """[1 + B, S, F] shifts: as observed, then with questions drawn again."""
    observed = np.stack([shift.shift(x, raw=raw) for x in features])[None]
    return np.concatenate([observed, shift.draws(features, raw, draws)])


# --- Fig 4, Table 12, Table 13, Table 5 --------------------------------------------------------


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
    questions = [e.query for e in data.load(profile.train, 0, 64)]
    ids = samples.tokenizer(profile.model, profile.revision)(questions, add_special_tokens=False).input_ids
    return saes.quality(units.sae(run), saes.activations(units.backbone(run), ids, 4096))["l0"]


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
    changed = units.change_arrays(profile)
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


# --- Fig 5, Table 10: mixtures -----------------------------------------------------------------


def mixture_domains(profile: Profile) -> tuple[str, str]:
    """(most, least) affected domain by the measured change on questions for training, of those with enough."""
    wanted = profile.mixture.extra
    table = units.changes(profile)
    table = table[table.measure == profile.evaluation.measure]
    moved = {}
    for domain in samples.evaluation_questions(profile):
        training, _ = samples.halves(profile, domain)
        known = table[table.id.isin({e.id for e in training})]
        if len(training) >= wanted and len(known):
            moved[domain] = abs(known.change.mean())
    if len(moved) < 2:
        raise ValueError(f"mixture.extra is {wanted}, but fewer than two domains have as many questions for training")
    return max(moved, key=moved.get), min(moved, key=moved.get)


def sts_split(profile: Profile) -> tuple[int, int]:
    """Extra examples of the (most, least) affected domain in the ratio of their STS_ICL, first seed."""
    parts = units.score_parts(profile, "sts_icl", profile.seeds[0])
    most, least = (parts[d][0].sum() / parts[d][1].sum() for d in mixture_domains(profile))
    share = round(profile.mixture.extra * most / (most + least))
    return share, profile.mixture.extra - share


def mixtures(profile: Profile) -> dict[str, tuple[int, int]]:
    """Name -> extra examples of the (most, least) affected domain."""
    extra = profile.mixture.extra
    half = extra // 2
    fixed = {"none": (0, 0), "all least": (0, extra), "half": (half, extra - half), "all most": (extra, 0)}
    return fixed | {"STS": sts_split(profile)}


def answered(profile: Profile, domain: str) -> list[Example]:
    """Training-half questions of a domain with answers sampled from the untouched model, as the paper has it."""
    settings = profile.mixture
    questions = samples.halves(profile, domain)[0][: settings.extra]

    def compute():
        written = generation.completions(
            units.performing(profile), samples.tokenizer(profile.model, profile.revision),
            [e.query for e in questions], settings.answer_tokens, temperature=1.0, desc=f"{domain} answers",
        )  # fmt: skip
        return pd.DataFrame({"id": [e.id for e in questions], "answer": written})

    recipe = {"model": profile.model, "revision": profile.revision, "tokens": settings.answer_tokens}
    recipe["dtype"] = profile.evaluation.dtype
    found = store.frame("answers", recipe | {"ids": [e.id for e in questions]}, compute).set_index("id").answer
    return [replace(e, solution=found[e.id] or e.answer) for e in questions]


def mixed(profile: Profile, extra: tuple[int, int]) -> Trained:
    """The model after SFT on the training set and `extra` examples of the two domains."""
    seed, settings = profile.seeds[0], profile.mixture
    domains = mixture_domains(profile)

    def train(out):
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        for domain, n in zip(domains, extra, strict=True):
            examples = examples + answered(profile, domain)[:n]
        random.Random(seed).shuffle(examples)
        return finetune.sft(profile, examples, seed, out)

    recipe = {
        "train": profile.train, "sft": profile.sft.model_dump(), "held_out": profile.shift.held_out, "seed": seed,
        "mixture": settings.model_dump(), "domains": domains, "extra": extra,
    }  # fmt: skip
    return units.trained(profile, recipe, train)


@cache
def mixture_changes(profile: Profile) -> dict[str, dict[str, Estimate]]:
    """Mixture -> change against the untouched model: of each domain's measure on its test half, and of the
    log-likelihood a token of held-out mathematics ("mathematics")."""
    domains = mixture_domains(profile)
    tests = [e for d in domains for e in samples.halves(profile, d)[1][: profile.mixture.questions]]
    measure = profile.evaluation.measure
    before, mathematics = units.performance(profile, None, tests), units.held_out_performance(profile)
    found = {}
    for name, extra in mixtures(profile).items():
        model = mixed(profile, extra)
        after = units.performance(profile, model, tests).set_index("id")
        change = (after[measure] - before.set_index("id")[measure]).groupby(before.set_index("id").domain)
        found[name] = {d: _mean(change.get_group(d).sort_index(), 1 + i) for i, d in enumerate(domains)}
        both = units.held_out_performance(profile, model).set_index("id") - mathematics.set_index("id")
        found[name]["mathematics"] = _mean(both.solution_loglik.sort_index(), 0)
    return found


def _mean(values: pd.Series, stream: int) -> Estimate:
    """Mean over questions; the same questions have the same `stream` of draws."""
    return Estimate(float(values.mean()), stats.mean_draws(values.to_numpy()[None], stream))


# --- Fig 6: reinforcement learning -------------------------------------------------------------


def reinforced(profile: Profile) -> Trained:
    """The model after GRPO on the profile's verifiable mathematics, first seed."""
    seed, run = profile.seeds[0], trained_on(profile, profile.grpo.train)

    def train(out):
        from sts_utils import reinforce  # TRL takes seconds to import, and only this needs it

        return reinforce.grpo(run, samples.training_examples(run, seed)[0], seed, out)

    recipe = {"grpo": profile.grpo.model_dump(), "held_out": profile.shift.held_out, "seed": seed}
    return units.trained(profile, recipe, train)


@cache
def reinforcement(profile: Profile) -> dict[str, Estimate]:
    """Overlap of estimated and actual dims for SFT and RL, and r for RL with either."""
    run = trained_on(profile, profile.grpo.train)
    seed = run.seeds[0]
    after = {seed: reinforced(profile)}
    actual = shift.shifted_dims(units.actual_stats(run, seed, after[seed]), run.top_n, run.definition)
    found = {"overlap SFT": dims_overlap(profile), "overlap RL": dims_overlap(run, after)}
    for name, chosen in (("estimated", {seed: units.dims(run, seed)}), ("actual", {seed: actual})):
        for metric, r in correlations(run, after=after, chosen=chosen).items():
            found[f"{metric} {name}"] = r
    return found


@cache
def rollout_overlap(profile: Profile) -> dict[str, Estimate]:
    """Overlap of D_N with the dims that GRPO moved, D_N from ground-truth demonstrations and from the model's own
    verified-correct answers, and their difference; ground truth alone where it has too few such answers to show."""
    run = trained_on(profile, profile.grpo.train)
    own = run.model_copy(update={"shown": "rollouts"})
    after = {run.seeds[0]: reinforced(profile)}
    found = {"ground truth": dims_overlap(run, after)}
    if len(units.rollouts(run, run.seeds[0])) >= run.shift.demonstrations:
        found["rollouts"] = dims_overlap(own, after)
        found["difference"] = found["rollouts"] - found["ground truth"]
    return found


def verified(profile: Profile) -> str:
    """How many of the untouched model's sampled answers were correct, as text."""
    run = trained_on(profile, profile.grpo.train)
    asked = min(units.ROLLOUTS, len(samples.training_examples(run, run.seeds[0])[0]))
    return f"{len(units.rollouts(run, run.seeds[0]))} of {asked}"


def reinforced_accuracy(profile: Profile) -> pd.DataFrame:
    """Greedy accuracy on held-out questions of the RL corpus before and after; columns id, accuracy, when."""
    run = trained_on(profile, profile.grpo.train)
    examples = samples.training_examples(run, 0)[1][: profile.evaluation.held_out]

    def compute():
        from sts_utils import reinforce

        frames = []
        for when, model in (("before", None), ("after", reinforced(profile))):
            whole, tokenizer = units.performing(profile, model), samples.tokenizer(profile.model, profile.revision)
            frame = reinforce.accuracy(whole, tokenizer, examples, profile.grpo.completion_tokens)
            frames.append(frame.assign(when=when))
        return pd.concat(frames, ignore_index=True)

    recipe = {"trained": reinforced(profile).key, "questions": profile.evaluation.held_out}
    recipe["dtype"] = profile.evaluation.dtype
    return store.frame("accuracy", recipe, compute)


# --- Fig 7, Table 11: selective fine-tuning ----------------------------------------------------


@cache
def selective(profile: Profile) -> dict[tuple[str, int], Estimate]:
    """(which dims, how many) -> change of the log-likelihood a token of held-out mathematics."""
    settings, before = profile.selective, units.held_out_performance(profile).set_index("id").solution_loglik
    found = {}
    for n in settings.dims:
        for which, draws in (("estimated", 1), ("random", settings.draws)):
            frames = [_selective(profile, which, n, draw).set_index("id").solution_loglik for draw in range(draws)]
            values = np.stack([(frame - before).sort_index().to_numpy() for frame in frames])
            found[which, n] = Estimate(float(values.mean()), stats.mean_draws(values))
    return found


def selective_dims(profile: Profile, name: str, which: str, n: int, draw: int) -> np.ndarray:
    """The `n` features of SAE `name` to train: the estimated shifted dims, or random ones."""
    run = units.with_sae(profile, name)
    ranked = units.dims(run, profile.seeds[0], None)
    if n > len(ranked):
        raise ValueError(f"selective.dims holds {n}, but SAE {name!r} has {len(ranked)} features")
    if which == "estimated":
        return ranked.ids[:n]
    return np.random.default_rng((run.layer, n, draw)).choice(len(ranked), n, replace=False)


def _selective(profile: Profile, which: str, n: int, draw: int) -> pd.DataFrame:
    """Train the maps, evaluate with them in place; columns id, solution_loglik."""
    settings, seed = profile.selective, profile.seeds[0]

    def make(out):
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        torch.manual_seed(seed)
        model = models.load_model(profile.model, profile.sft.dtype, profile.revision).requires_grad_(False)
        runs = [units.with_sae(profile, name) for name in profile.sweep.layers]
        taps = {
            run.layer: (units.sae(run), selective_dims(profile, run.sae, which, n, draw)) for run in runs
        }  # fmt: skip
        model.selective = maps = SelectiveMaps(taps).to(model.device)
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        held_out = samples.training_examples(profile, 0)[1][: profile.evaluation.held_out]
        with edited(model, maps.edits({run.layer: units.sink_norm(run) for run in runs})):
            desc = f"{n} {which} dims"
            log = finetune.train_answers(model.train(), tokenizer, profile, examples, settings.lr, seed, desc)
            table = evaluate.solution_loglik(model.eval(), tokenizer, held_out, profile.sft.max_length)
        save_file(maps.state_dict(), out / "maps.safetensors")
        log.to_parquet(out / "log.parquet", index=False)
        table.to_parquet(out / "table.parquet", index=False)

    recipe = {
        "model": profile.model, "revision": profile.revision, "train": profile.train, "saes": profile.sweep.layers,
        "sft": profile.sft.model_dump(), "shift": profile.shift.model_dump(), "selective": settings.model_dump(),
        "seed": seed, "dtype": profile.dtype, "definition": profile.definition, "alignment": profile.alignment,
        "questions": profile.evaluation.held_out, "which": which, "n": n, "draw": draw,
    }  # fmt: skip
    return pd.read_parquet(store.folder("selective", recipe, make) / "table.parquet")


# --- Tables 7, 8: what the shifted dims are about ----------------------------------------------


def label_texts(profile: Profile) -> tuple[list[list[int]], np.ndarray]:
    """(token ids of the texts, kind of each as an index into labels.KINDS), equally many of each kind."""
    settings, tokenizer = profile.labels, samples.tokenizer(profile.model, profile.revision)
    corpora = [data.load(name, 0, settings.samples) for name in (profile.train, settings.code, settings.dialogue)]
    fewest = min(map(len, corpora))
    texts = [labels.texts(tokenizer, corpus[:fewest], settings.tokens) for corpus in corpora]
    return [ids for kind in texts for ids in kind], np.repeat(np.arange(len(labels.KINDS)), fewest)


def label_peaks(profile: Profile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([samples, F] highest activations, [samples] kinds by source, [samples] kinds by the model as a judge)."""
    texts, kinds = label_texts(profile)

    def compute():
        peaks = labels.peaks(units.backbone(profile), units.sae(profile), texts, units.sink_norm(profile))
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        return {"peaks": peaks, "judged": labels.judged(units.performing(profile), tokenizer, texts)}

    recipe = {
        **profile.labels.model_dump(), "model": profile.model, "revision": profile.revision, "sae": profile.sae,
        "train": profile.train, "dtypes": (profile.dtype, profile.evaluation.dtype),
    }  # fmt: skip
    found = store.arrays("labels", recipe, compute)
    return found["peaks"], kinds, found["judged"]


@cache
def label_shares(profile: Profile, sizes=(50, 100, 200), draws: int = 200) -> dict[str, dict[object, Estimate]]:
    """How the shifted dims are labelled, by the source of their top samples.

    "share": size -> share of D_size labelled mathematics, and "all": the same share of every labelled
    feature (the base rate). "recall": mathematics and code -> share of 100 features with that label among
    the top 500 of the ranking, and "chance". Replicates draw texts, seeds and the 100 features again.
    """
    peaks, kinds, _ = label_peaks(profile)
    ranked = [units.dims(profile, seed, None).ids for seed in profile.seeds]
    sizes = [n for n in sizes if n <= len(ranked[0])]
    deep = min(500, len(ranked[0]) // 2)
    share, recall = {n: [] for n in (*sizes, "all")}, {"math": [], "code": []}
    for draw in range(draws + 1):
        rng = np.random.default_rng(draw)
        picked = _redrawn(kinds, rng) if draw else np.arange(len(kinds))
        label = labels.labelled(labels.votes(peaks[picked], kinds[picked], profile.labels.top))
        known = label >= 0
        for n in sizes:
            share[n].append([_share(label[ids[:n]] == 0, known[ids[:n]]) for ids in ranked])
        share["all"].append([_share(label == 0, known)] * len(ranked))
        for name, kind in (("math", 0), ("code", 1)):
            members = np.flatnonzero(label == kind)
            chosen = rng.choice(members, min(100, len(members)), replace=False)
            recall[name].append([np.isin(chosen, ids[:deep]).mean() if len(chosen) else 0.0 for ids in ranked])

    def estimate(values):
        values = np.array(values)
        return Estimate(float(values[0].mean()), stats.over_seeds(values[1:]))

    chance = deep / len(ranked[0])
    recalls = {n: estimate(values) for n, values in recall.items()}
    recalls["chance"] = Estimate(chance, np.array([chance]))
    return {"share": {n: estimate(values) for n, values in share.items()}, "recall": recalls}


def labelling(profile: Profile, what: str) -> tuple[dict[object, Estimate], float]:
    """("share" or "recall" of `label_shares`, share of the texts whose source the model names as a judge)."""
    _, kinds, judged = label_peaks(profile)
    return label_shares(profile)[what], float((judged == kinds).mean())


def _share(hits: np.ndarray, among: np.ndarray) -> float:
    return float((hits & among).sum() / max(among.sum(), 1))


def _redrawn(kinds: np.ndarray, rng) -> np.ndarray:
    """Indices of texts drawn again within each kind."""
    return np.concatenate([rng.choice(np.flatnonzero(kinds == k), (kinds == k).sum()) for k in np.unique(kinds)])
