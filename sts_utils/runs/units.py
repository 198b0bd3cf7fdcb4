"""What a run computes, each unit once: (profile, seed) -> stored artifact.

Every function here loads its result if it is in the store and computes it otherwise, so a killed run
resumes at the unit it died in, and any notebook can be opened on its own.
"""

import copy
import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from sts_utils import config, generation, models, saes, store
from sts_utils.config import Profile
from sts_utils.corpora import data
from sts_utils.engines import vllm as vllm_engine
from sts_utils.examples import Example, by_domain
from sts_utils.method import extract, prompts, score, shift
from sts_utils.method.extract import FeatureStats, Tap
from sts_utils.method.shift import ShiftedDims
from sts_utils.runs import samples
from sts_utils.runs.samples import evaluation_questions
from sts_utils.training import sft as finetune

# --- models and SAEs, loaded once a process ----------------------------------------------------


def prepare(profile: Profile) -> None:
    """Check that everything a run needs is there and fits, before anything heavy is loaded."""
    torch.set_num_threads(config.cpu_threads())
    features = sae(profile, "cpu").cfg.d_sae
    if profile.top_n > features:
        raise ValueError(f"top_n is {profile.top_n}, but SAE {profile.sae!r} has {features} features")
    for other in sweep(profile):  # from their configs: the weights of public SAEs are gigabytes
        models.check(profile.model, other.layer, profile.revision)
    labels = (profile.labels.code, profile.labels.dialogue)
    corpora = (profile.train, profile.domains, profile.demonstrations, profile.grpo.train, *profile.others, *labels)
    for corpus in corpora:
        data.load(corpus)
    shown = by_domain(data.load(profile.demonstrations))
    for domain in evaluation_questions(profile):
        if len(shown.get(domain, ())) < profile.sts.demonstrations:
            raise ValueError(
                f"domain {domain!r} has {len(shown.get(domain, ()))} demonstrations in "
                f"{profile.demonstrations!r}, sts.demonstrations asks for {profile.sts.demonstrations}"
            )


@lru_cache(maxsize=2)  # the untouched model and one fine-tuned one
def _truncated(name: str, layer: int, dtype: str, revision: str | None):
    torch.set_num_threads(config.cpu_threads())
    return models.load_truncated(name, layer, dtype, revision)


@cache
def _sae(name: str, d_in: int, layer: int):
    return saes.load(name, d_in, layer)  # in main memory


@cache
def _sae_on(device: str, name: str, d_in: int, layer: int):
    loaded = _sae(name, d_in, layer)
    return loaded if device == "cpu" else copy.deepcopy(loaded).to(device)


def backbone(profile: Profile, name: str | None = None):
    """The profile's model (or a fine-tuned one) up to the SAE's layer."""
    return _truncated(str(name or profile.model), profile.layer, profile.dtype, None if name else profile.revision)


def sae(profile: Profile, device: str | None = None):
    """The profile's SAE, on the device that models run on if no other is named."""
    width = models.check(profile.model, profile.layer, profile.revision)
    return _sae_on(device or models.device(), profile.sae, width, profile.layer)


def release(engine: bool = True) -> None:
    """Give the GPU back before another process or a whole model needs it: cached models and SAEs, and vLLM's engine
    unless `engine` is False. On a CPU nothing is dropped: memory is not short there, and loading takes time."""
    if torch.cuda.is_available():
        if engine:
            vllm_engine.close()
        _truncated.cache_clear()
        _sae_on.cache_clear()
        gc.collect()  # a Trainer lies in a reference cycle
        torch.cuda.empty_cache()


@cache
def sink_norm(profile: Profile) -> float:
    """The attention-sink threshold of the profile's model, from 16 plain training prompts."""
    shown = [prompts.chat_prompt(_tokenizer(profile), e) for e in data.load(profile.train, 0, 16)]
    return extract.sink_norm(backbone(profile), shown)


def _tokenizer(profile: Profile):
    return samples.tokenizer(profile.model, profile.revision)


def with_sae(profile: Profile, name: str) -> Profile:
    """The same run read through another SAE, at its layer."""
    return profile.model_copy(update={"sae": name, "layer": saes.layer(name)})


def sweep_names(profile: Profile) -> list[str]:
    """The SAEs of Fig 4a–c beside the profile's own."""
    named = {*profile.sweep.widths, *profile.sweep.layers, *profile.sweep.sparsities} - {profile.sae}
    return sorted(named)


def sweep(profile: Profile) -> list[Profile]:
    """The run read through each SAE of Fig 4a–c."""
    return [with_sae(profile, name) for name in sweep_names(profile)]


# --- fine-tuned models -------------------------------------------------------------------------


class Trained(NamedTuple):
    """A fine-tuned model that is, or can be, in the store: its key, and the folder (trained now if missing)."""

    key: str
    folder: Callable[[], Path]


def trained(profile: Profile, recipe: Mapping, train: Callable[[Path], pd.DataFrame]) -> Trained:
    """The model that `train(out)` leaves in `out`, with the training log that it returns in `log.parquet`."""
    recipe = {"model": profile.model, "revision": profile.revision, **recipe}
    made = store.path("trained", recipe)

    def make(out):
        release()
        train(out).to_parquet(out / "log.parquet", index=False)
        release()

    return Trained(made.name, lambda: store.folder("trained", recipe, make))


def finetuned(profile: Profile, seed: int) -> Trained:
    """The model after SFT on the training set."""

    def train(out):
        return finetune.sft(profile, samples.training_examples(profile, seed)[0][: profile.sft.examples], seed, out)

    recipe = {"train": profile.train, "sft": profile.sft.model_dump(), "held_out": profile.shift.held_out, "seed": seed}
    return trained(profile, recipe, train)


def training_log(profile: Profile) -> pd.DataFrame:
    """Loss by step of SFT on the training set; column `run` names the seed."""
    return logs({f"seed {seed}": finetuned(profile, seed) for seed in profile.seeds})


def logs(models_: Mapping[object, Trained]) -> pd.DataFrame:
    """The logs of several models, a column `run` naming each."""
    return pd.concat([pd.read_parquet(m.folder() / "log.parquet").assign(run=name) for name, m in models_.items()])


def performing(profile: Profile, model: Trained | None = None):
    """The whole model to evaluate: untouched (None) or fine-tuned."""
    torch.set_num_threads(config.cpu_threads())
    where = str(model.folder()) if model else profile.model
    release()
    return models.load_model(where, profile.evaluation.dtype, None if model else profile.revision)


#: Training questions that the untouched model answers, to find verified answers of its own.
ROLLOUTS = 192


def rollouts(profile: Profile, seed: int) -> list[Example]:
    """Training questions with the untouched model's own sampled answers, those verified correct alone."""
    pool = samples.training_examples(profile, seed)[0][:ROLLOUTS]
    settings = profile.grpo

    def compute():
        from sts_utils.training import grpo as reinforce

        written = generation.completions(
            performing(profile), _tokenizer(profile), [e.query for e in pool], settings.completion_tokens,
            temperature=settings.temperature, seed=seed, desc="rollouts",
        )  # fmt: skip
        correct = [bool(reinforce.reward(text, e.answer)) for text, e in zip(written, pool, strict=True)]
        return pd.DataFrame({"id": [e.id for e in pool], "solution": written, "correct": correct})

    table = store.frame("rollouts", _rollout_recipe(profile, seed), compute).set_index("id")
    return [replace(e, solution=table.solution[e.id]) for e in pool if table.correct[e.id]]


def _rollout_recipe(profile: Profile, seed: int) -> dict:
    tokens, temperature = profile.grpo.completion_tokens, profile.grpo.temperature
    sampled = {"questions": ROLLOUTS, "tokens": tokens, "temperature": temperature, "held_out": profile.shift.held_out}
    return {"model": profile.model, "train": profile.train, "seed": seed, "dtype": profile.evaluation.dtype, **sampled}


# --- features ----------------------------------------------------------------------------------


def settings_of(profile: Profile, *sections: str, **more) -> dict:
    """The settings that an artifact depends on: model, SAE and the sections named."""
    keys = ("model", "revision", "layer", "sae", "dtype", *sections)
    return {key: profile.model_dump()[key] for key in keys} | more


def train_stats(profile: Profile, seed: int, also: Sequence[Profile] = ()) -> FeatureStats:
    """Features of training questions without and with training demonstrations (for D_N).

    `also`: the same run read through other SAEs, whose statistics are stored from the same forward pass.
    """

    def recipe(p):
        own = {} if p.shown == "ground_truth" else {"shown": p.shown, "rollouts": _rollout_recipe(p, seed)}
        return settings_of(p, "train", "shift", "alignment", seed=seed, **own)

    def pairs():
        shown = rollouts(profile, seed) if profile.shown == "rollouts" else None
        return samples.training_pairs(profile, seed, shown)

    if profile.alignment == "stream":
        return _loaded("features-train", recipe(profile), lambda: _stream(profile, pairs()))
    return features("features-train", [profile, *also], recipe, pairs, f"{profile.train} seed {seed}")


def domain_stats(profile: Profile, domain: str, seed: int, also: Sequence[Profile] = ()) -> FeatureStats:
    """Features of a domain's questions without and with its demonstrations (for STS); `also` as in `train_stats`."""

    def recipe(p):
        sections = ("domains", "demonstrations", "sts")
        return settings_of(p, *sections, seed=seed, domain=domain, questions=p.evaluation.questions)

    def pairs():
        return samples.domain_pairs(profile, domain, seed)

    return features("features-domain", [profile, *also], recipe, pairs, f"{domain} seed {seed}")


def actual_stats(profile: Profile, seed: int, model: Trained | None = None) -> FeatureStats:
    """Features of the same plain training questions before and after fine-tuning (the actual shift)."""
    model = model or finetuned(profile, seed)

    def pairs():
        return [(plain, plain) for plain, _ in samples.training_pairs(profile, seed)]

    def recipe(p):
        return settings_of(p, "train", "shift", seed=seed, trained=model.key)

    return features("features-actual", [profile], recipe, pairs, f"after training, seed {seed}", model)


def domain_after(profile: Profile, domain: str, seed: int) -> FeatureStats:
    """Residual stream of a domain's plain questions in the fine-tuned model (no SAE features but one)."""
    model = finetuned(profile, seed)

    def compute():
        pairs = [(plain, plain) for plain, _ in samples.domain_pairs(profile, domain, seed)]
        tap = Tap(profile.layer, sae(profile), sink_norm(profile))
        desc = f"{domain} after SFT, seed {seed}"
        (found,) = extract.feature_stats(
            pairs, backbone(profile, model.folder()), [tap], features=np.array([0]), desc=desc
        )  # fmt: skip
        return found

    more = {"questions": profile.evaluation.questions, "trained": model.key, "domain": domain, "seed": seed}
    return _loaded("residual-after", settings_of(profile, "domains", "demonstrations", "sts", **more), compute)


def _loaded(name: str, recipe: dict, compute: Callable[[], FeatureStats]) -> FeatureStats:
    return FeatureStats.from_arrays(store.arrays(name, recipe, lambda: compute().arrays()))


def features(
    name: str, profiles: Sequence[Profile], recipe: Callable[[Profile], dict], pairs: Callable, desc: str | None,
    after: Trained | None = None,
) -> FeatureStats:  # fmt: skip
    """Statistics of the first profile; those of all are stored, from one forward pass for what is missing."""

    def extracted(of: Sequence[Profile]) -> list[FeatureStats]:
        deepest = max(of, key=lambda p: p.layer)
        if deepest.engine == "vllm" and after is None:  # two models at once are read with transformers
            taps = [Tap(p.layer, sae(p, "cpu"), sink_norm(p)) for p in of]  # its workers load SAEs of their own
            release(engine=False)
            folder = vllm_engine.truncated_checkpoint(deepest.model, deepest.layer, deepest.revision)
            return vllm_engine.feature_stats(pairs(), folder, taps, dtype=deepest.dtype, desc=desc)
        if torch.cuda.is_available():
            vllm_engine.close()
        taps = [Tap(p.layer, sae(p), sink_norm(p)) for p in of]
        other = backbone(deepest, after.folder()) if after else None
        return extract.feature_stats(pairs(), backbone(deepest), taps, other_model=other, desc=desc)

    if missing := [p for p in profiles if not store.path(name, recipe(p)).exists()]:
        for p, made in zip(missing, extracted(missing), strict=True):
            _loaded(name, recipe(p), lambda made=made: made)
    return _loaded(name, recipe(profiles[0]), lambda: extracted(profiles[:1])[0])  # again only if it is damaged


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


def dims(profile: Profile, seed: int, n: int | None = 0) -> ShiftedDims:
    """D_N, estimated before any fine-tuning; N is the profile's, or `n` (None: every feature, ranked)."""
    return shift.shifted_dims(train_stats(profile, seed), profile.top_n if n == 0 else n, profile.definition)


def score_parts(
    profile: Profile, metric: str, seed: int, chosen: ShiftedDims | None = None
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Domain -> (sums, tokens) a query, on D_N or other dims."""
    chosen = dims(profile, seed) if chosen is None else chosen
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
