"""What a run computes, each unit once: (profile, seed) -> stored artifact.

Every function here loads its result if it is in the store and computes it otherwise, so a killed run
resumes at the unit it died in, and any notebook can be opened on its own.
"""

import random
from functools import cache

import numpy as np
import pandas as pd
import torch

from sts_utils import config, data, evaluate, extract, finetune, models, prompts, saes, score, shift, stats, store
from sts_utils.config import Profile
from sts_utils.data import Example
from sts_utils.extract import FeatureStats
from sts_utils.shift import ShiftedDims

# --- models and SAEs, loaded once a process ----------------------------------------------------


def prepare(profile: Profile) -> None:
    """Check that everything a run needs is there and fits, before anything heavy is loaded."""
    torch.set_num_threads(config.cpu_threads())
    width = models.check(profile.model, profile.layer, profile.revision)
    sae = _sae(profile.sae, width, profile.layer)
    if profile.top_n > sae.cfg.d_sae:
        raise ValueError(f"top_n is {profile.top_n}, but SAE {profile.sae!r} has {sae.cfg.d_sae} features")
    for corpus in (profile.train, profile.domains, profile.demonstrations):
        data.load(corpus)
    shown = data.by_domain(data.load(profile.demonstrations))
    for domain in evaluation_questions(profile):
        if len(shown.get(domain, ())) < profile.sts.demonstrations:
            raise ValueError(
                f"domain {domain!r} has {len(shown.get(domain, ()))} demonstrations in "
                f"{profile.demonstrations!r}, sts.demonstrations asks for {profile.sts.demonstrations}"
            )


@cache
def tokenizer(name: str, revision: str | None = None):
    """The tokenizer of a model name."""
    return models.load_tokenizer(name, revision)


@cache
def _truncated(name: str, layer: int, dtype: str, revision: str | None):
    torch.set_num_threads(config.cpu_threads())
    return models.load_truncated(name, layer, dtype, revision)


@cache
def _sae(name: str, d_in: int, layer: int):
    return saes.load(name, d_in, layer).to(models.device())


def backbone(profile: Profile, name: str | None = None):
    """The profile's model (or a fine-tuned one) up to the SAE's layer."""
    return _truncated(str(name or profile.model), profile.layer, profile.dtype, None if name else profile.revision)


def sae(profile: Profile):
    """The profile's SAE."""
    return _sae(profile.sae, models.check(profile.model, profile.layer, profile.revision), profile.layer)


@cache
def sink_norm(profile: Profile) -> float:
    """The attention-sink threshold of the profile's model, from 16 plain training prompts."""
    shown = [prompts.chat_prompt(_tokenizer(profile), e) for e in data.load(profile.train, 0, 16)]
    return extract.sink_norm(backbone(profile), shown)


def _tokenizer(profile: Profile):
    return tokenizer(profile.model, profile.revision)


# --- which questions a run uses ----------------------------------------------------------------


def training_examples(profile: Profile, seed: int) -> tuple[list[Example], list[Example]]:
    """(SFT pool, held out) of the training corpus: the same split for every seed, other orders."""
    train, held_out = data.split(data.load(profile.train), profile.shift.held_out, seed=0)
    for part in (train, held_out):
        random.Random(seed).shuffle(part)
    return train, held_out


def evaluation_questions(profile: Profile) -> dict[str, list[Example]]:
    """The questions of each domain on which performance is measured; the same for all seeds.

    No question is among the demonstrations, compared by its text.
    """
    shown = {e.question for e in data.load(profile.demonstrations)}
    questions = data.by_domain(e for e in data.load(profile.domains) if e.question not in shown)
    return {domain: group[: profile.evaluation.questions] for domain, group in questions.items()}


def domain_queries(profile: Profile, domain: str, seed: int) -> list[Example]:
    """The questions on which a domain is scored: drawn anew for each seed from those it is evaluated on."""
    questions = evaluation_questions(profile)[domain]
    if len(questions) < profile.sts.queries:
        return questions
    return random.Random(seed).sample(questions, profile.sts.queries)


def training_pairs(profile: Profile, seed: int):
    """(plain, icl) prompts of the training set: held-out queries, demonstrations from the SFT pool."""
    train, held_out = training_examples(profile, seed)
    settings = profile.shift
    if len(held_out) < 2:
        raise ValueError(f"corpus {profile.train!r} has {len(held_out)} held-out questions: raise shift.held_out")
    sets = prompts.choose_demonstrations(train, settings.demonstrations, settings.sets, seed)
    return prompts.prompt_pairs(_tokenizer(profile), held_out[: settings.queries], sets, context_length(profile))


def domain_pairs(profile: Profile, domain: str, seed: int):
    """(plain, icl) prompts of a downstream domain, with its own chain-of-thought demonstrations."""
    shown = data.by_domain(data.load(profile.demonstrations))[domain]
    sets = prompts.choose_demonstrations(shown, profile.sts.demonstrations, 1, seed)
    queries = domain_queries(profile, domain, seed)
    return prompts.prompt_pairs(_tokenizer(profile), queries, sets, context_length(profile))


def context_length(profile: Profile) -> int:
    """The most tokens the profile's model takes."""
    return backbone(profile).config.get_text_config().max_position_embeddings


# --- features ----------------------------------------------------------------------------------


def _recipe(profile: Profile, *sections: str, **more) -> dict:
    """The settings that an artifact depends on: model, SAE and the sections named."""
    keys = ("model", "revision", "layer", "sae", "dtype", *sections)
    return {key: profile.model_dump()[key] for key in keys} | more


def train_stats(profile: Profile, seed: int) -> FeatureStats:
    """Features of training questions without and with training demonstrations (for D_N)."""

    def compute():
        pairs = training_pairs(profile, seed)
        if profile.alignment == "stream":
            return _stream(profile, pairs).arrays()
        return _extract(profile, pairs, f"{profile.train} seed {seed}").arrays()

    recipe = _recipe(profile, "train", "shift", "alignment", seed=seed)
    return FeatureStats.from_arrays(store.arrays("features-train", recipe, compute))


def domain_stats(profile: Profile, domain: str, seed: int) -> FeatureStats:
    """Features of a domain's questions without and with its demonstrations (for STS)."""

    def compute():
        return _extract(profile, domain_pairs(profile, domain, seed), f"{domain} seed {seed}").arrays()

    sections = ("domains", "demonstrations", "sts")
    recipe = _recipe(profile, *sections, seed=seed, domain=domain, questions=profile.evaluation.questions)
    return FeatureStats.from_arrays(store.arrays("features-domain", recipe, compute))


def actual_stats(profile: Profile, seed: int) -> FeatureStats:
    """Features of the same plain training questions before and after fine-tuning (the actual shift)."""

    def compute():
        plain = [pair[0] for pair in training_pairs(profile, seed)]
        after = models.load_truncated(str(finetuned(profile, seed)), profile.layer, profile.dtype)
        pairs = list(zip(plain, plain, strict=True))
        return _extract(profile, pairs, f"SFT seed {seed}", other_model=after).arrays()

    recipe = _recipe(profile, "train", "shift", "sft", seed=seed)
    return FeatureStats.from_arrays(store.arrays("features-actual", recipe, compute))


def _extract(profile: Profile, pairs, desc: str, other_model=None) -> FeatureStats:
    return extract.feature_stats(
        pairs, backbone(profile), sae(profile), sink_norm=sink_norm(profile), other_model=other_model, desc=desc
    )


def _stream(profile: Profile, pairs) -> FeatureStats:
    """The released code's alignment: whole prompts with generated tokens, row by row."""
    settings, flat = profile.shift, [prompt for pair in pairs for prompt in pair]
    generated = {}
    if settings.generated_tokens:
        whole = models.load_model(profile.model, profile.dtype, profile.revision)
        generated = extract.generate(whole, _tokenizer(profile), flat, settings.generated_tokens)
    return extract.stream_stats(
        pairs, backbone(profile), sae(profile), sink_norm=sink_norm(profile), max_rows=settings.stream_rows,
        generated=generated,
    )  # fmt: skip


# --- dims and scores ---------------------------------------------------------------------------


def dims(profile: Profile, seed: int) -> ShiftedDims:
    """D_N, estimated before any fine-tuning."""
    return shift.shifted_dims(train_stats(profile, seed), profile.top_n, profile.definition)


def score_parts(profile: Profile, metric: str, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Domain -> (sums, tokens) a query."""
    chosen = dims(profile, seed)
    return {
        domain: score.parts(domain_stats(profile, domain, seed), chosen, metric, profile.definition)
        for domain in evaluation_questions(profile)
    }


def scores(profile: Profile) -> pd.DataFrame:
    """DomainScores: a row for each metric, seed and domain, with model, SAE and training set."""
    rows = []
    for metric in score.METRICS:
        for seed in profile.seeds:
            for domain, (sums, tokens) in score_parts(profile, metric, seed).items():
                rows.append(
                    {
                        "model": profile.model, "sae": profile.sae, "train": profile.train, "domain": domain,
                        "metric": metric, "seed": seed, "value": sums.sum() / tokens.sum(),
                        "queries": len(sums), "tokens": int(tokens.sum()),
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


# --- fine-tuning and performance ---------------------------------------------------------------


def finetuned(profile: Profile, seed: int):
    """The folder of the fine-tuned model, with its training log in `log.parquet`."""

    def make(out):
        examples = training_examples(profile, seed)[0][: profile.sft.examples]
        log = finetune.sft(profile, examples, seed, out)
        log.to_parquet(out / "log.parquet", index=False)

    keys = {k: profile.model_dump()[k] for k in ("model", "revision", "train", "sft")}
    return store.folder("sft", keys | {"seed": seed, "held_out": profile.shift.held_out}, make)


def training_log(profile: Profile) -> pd.DataFrame:
    """Loss by step and seed."""
    return pd.concat([pd.read_parquet(finetuned(profile, seed) / "log.parquet") for seed in profile.seeds])


def _performing(profile: Profile, seed: int | None):
    """The whole model to evaluate: untouched (seed None) or fine-tuned."""
    torch.set_num_threads(config.cpu_threads())
    where = profile.model if seed is None else str(finetuned(profile, seed))
    return models.load_model(where, profile.evaluation.dtype, profile.revision if seed is None else None)


def performance(profile: Profile, seed: int | None) -> pd.DataFrame:
    """Each question's performance before (seed None) or after fine-tuning (evaluate.performance)."""

    def compute():
        questions = [e for group in evaluation_questions(profile).values() for e in group]
        label = "before SFT" if seed is None else f"after SFT, seed {seed}"
        return evaluate.performance(_performing(profile, seed), _tokenizer(profile), questions, desc=label)

    return store.frame("performance", _evaluation_recipe(profile, seed), compute)


def held_out_performance(profile: Profile, seed: int | None) -> pd.DataFrame:
    """Log-likelihood of held-out training-set solutions before or after fine-tuning."""

    def compute():
        examples = training_examples(profile, 0)[1][: profile.evaluation.held_out]
        model = _performing(profile, seed)
        return evaluate.solution_loglik(model, _tokenizer(profile), examples, profile.sft.max_length)

    return store.frame("held-out", _evaluation_recipe(profile, seed), compute)


def _evaluation_recipe(profile: Profile, seed: int | None) -> dict:
    sections = ("model", "revision", "domains", "demonstrations", "evaluation", "train")
    keys = {k: profile.model_dump()[k] for k in sections} | {"held_out": profile.shift.held_out}
    return keys if seed is None else keys | {"sft": profile.sft.model_dump(), "seed": seed}


def changes(profile: Profile) -> pd.DataFrame:
    """Performance after − before, a row for each seed, domain, question and measure."""
    before = performance(profile, None)
    frames = []
    for seed in profile.seeds:
        both = performance(profile, seed).merge(before, on=["domain", "id"], suffixes=("_after", "_before"))
        for measure in evaluate.MEASURES:
            frames.append(
                both[["domain", "id"]].assign(
                    seed=seed, measure=measure, before=both[f"{measure}_before"], after=both[f"{measure}_after"],
                    change=both[f"{measure}_after"] - both[f"{measure}_before"],
                )
            )  # fmt: skip
    return pd.concat(frames, ignore_index=True)


def observations(profile: Profile, measure: str | None = None) -> dict[str, stats.Observations]:
    """Metric -> what its correlation with the change of `measure` is computed from."""
    table = changes(profile)
    table = table[table.measure == (measure or profile.evaluation.measure)]
    domains = tuple(evaluation_questions(profile))
    by_domain = [
        table[table.domain == d].pivot(index="seed", columns="id", values="change").loc[list(profile.seeds)].to_numpy()
        for d in domains
    ]
    found = {}
    for metric in score.METRICS:
        parts = [score_parts(profile, metric, seed) for seed in profile.seeds]
        found[metric] = stats.Observations(
            domains, [[p[d][0] for d in domains] for p in parts], [[p[d][1] for d in domains] for p in parts], by_domain
        )
    return found


def held_out(profile: Profile) -> pd.DataFrame:
    """Held-out solutions' log-likelihood before and after, a row a question and seed; column `when`."""
    frames = [held_out_performance(profile, None).assign(when="before", seed=pd.NA)]
    frames += [held_out_performance(profile, seed).assign(when="after", seed=seed) for seed in profile.seeds]
    return pd.concat(frames, ignore_index=True)
