"""What a feature is about: which kind of text drives it hardest (Tables 7, 8)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm

from sts_utils import corpora, generation, saes, stats, store
from sts_utils.config import Profile
from sts_utils.evaluation.options import OptionsLM
from sts_utils.examples import Example
from sts_utils.runs import samples, units
from sts_utils.stats import Estimate

KINDS = ("math", "code", "dialogue")


def texts(tokenizer, examples: Sequence[Example], tokens: int) -> list[list[int]]:
    """Token ids of each example's text, question and solution, at most `tokens`."""
    written = [f"{e.question}\n{e.solution}".strip() for e in examples]
    return [ids[:tokens] for ids in tokenizer(written, add_special_tokens=False).input_ids]


@torch.inference_mode()
def peaks(model, sae, sequences: Sequence[list[int]], sink_norm: float) -> np.ndarray:
    """[samples, F] highest activation of each feature in each text; `model` is truncated at the SAE's layer."""
    found = []
    for sequence in tqdm(sequences, desc="highest activations", unit="text", leave=False):
        ids = torch.tensor([sequence], device=model.device)
        rows = model(input_ids=ids, use_cache=False).last_hidden_state[0, 1:].float()
        h = saes.encode(sae, rows[rows.norm(dim=-1) < sink_norm])
        found.append(h.amax(0).cpu().numpy())
    return np.stack(found)


def votes(peaks_: np.ndarray, kind: np.ndarray, top: int = 10) -> np.ndarray:
    """[F, kinds] share of each kind among the `top` samples on which a feature fires hardest.

    `kind` [samples] are indices into KINDS. A feature that fires on fewer samples is judged by those; one
    that never fires has NaN.
    """
    order = np.argsort(-peaks_, axis=0, kind="stable")[:top]
    fired = np.take_along_axis(peaks_, order, 0) > 0
    counts = np.stack([((kind[order] == k) & fired).sum(0) for k in range(len(KINDS))], -1).astype(float)
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def labelled(shares: np.ndarray) -> np.ndarray:
    """[F] the kind with the most votes, −1 for a feature that never fires or whose vote is tied."""
    best = np.nan_to_num(shares).max(-1, keepdims=True)
    winners = (shares == best) & (best > 0)
    return np.where(winners.sum(-1) == 1, winners.argmax(-1), -1)


def judged(model, tokenizer, sequences: Sequence[list[int]]) -> np.ndarray:
    """[samples] the kind that the whole model itself gives each text: the likeliest of three words.

    The judge-free `votes` need only know where a text came from; this asks a language model, as the paper does.
    """
    requests = []
    for ids in sequences:
        question = f"{tokenizer.decode(ids)}\n\nWhat is this text? Answer with one word: math, code or dialogue."
        prompt = generation.chat_text(tokenizer, question)
        requests += [Instance("loglikelihood", {}, (prompt, word), 0) for word in KINDS]
    scored = OptionsLM(model, tokenizer, desc="judge").loglikelihood(requests)
    return np.array([value for value, _ in scored]).reshape(-1, len(KINDS)).argmax(1)


def sample(profile: Profile) -> tuple[list[list[int]], np.ndarray]:
    """(token ids of the texts, kind of each as an index into KINDS), equally many of each kind."""
    settings, tokenizer = profile.labels, samples.tokenizer(profile.model, profile.revision)
    sets = [corpora.load(name, 0, settings.samples) for name in (profile.train, settings.code, settings.dialogue)]
    fewest = min(map(len, sets))
    kinds = [texts(tokenizer, corpus[:fewest], settings.tokens) for corpus in sets]
    return [ids for kind in kinds for ids in kind], np.repeat(np.arange(len(KINDS)), fewest)


def peaks_of(profile: Profile) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """([samples, F] highest activations, [samples] kinds by source, [samples] kinds by the model as a judge)."""
    sequences, kinds = sample(profile)

    def compute():
        found = peaks(units.backbone(profile), units.sae(profile), sequences, units.sink_norm(profile))
        tokenizer = samples.tokenizer(profile.model, profile.revision)
        return {"peaks": found, "judged": judged(units.performing(profile), tokenizer, sequences)}

    recipe = {
        **profile.labels.model_dump(), "model": profile.model, "revision": profile.revision, "sae": profile.sae,
        "train": profile.train, "dtypes": (profile.dtype, profile.evaluation.dtype),
    }  # fmt: skip
    found = store.arrays("labels", recipe, compute)
    return found["peaks"], kinds, found["judged"]


@cache
def shares(profile: Profile, sizes=(50, 100, 200), draws: int = 200) -> dict[str, dict[object, Estimate]]:
    """How the shifted dims are labelled, by the source of their top samples.

    "share": size -> share of D_size labelled mathematics, and "all": the same share of every labelled
    feature (the base rate). "recall": mathematics and code -> share of 100 features with that label among
    the top 500 of the ranking, and "chance". Replicates draw texts, seeds and the 100 features again.
    """
    peaks, kinds, _ = peaks_of(profile)
    ranked = [units.dims(profile, seed, None).ids for seed in profile.seeds]
    sizes = [n for n in sizes if n <= len(ranked[0])]
    deep = min(500, len(ranked[0]) // 2)
    share, recall = {n: [] for n in (*sizes, "all")}, {"math": [], "code": []}
    for draw in range(draws + 1):
        rng = np.random.default_rng(draw)
        picked = _redrawn(kinds, rng) if draw else np.arange(len(kinds))
        label = labelled(votes(peaks[picked], kinds[picked], profile.labels.top))
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
    """("share" or "recall" of `shares`, share of the texts whose source the model names as a judge)."""
    _, kinds, judged = peaks_of(profile)
    return shares(profile)[what], float((judged == kinds).mean())


def _share(hits: np.ndarray, among: np.ndarray) -> float:
    return float((hits & among).sum() / max(among.sum(), 1))


def _redrawn(kinds: np.ndarray, rng) -> np.ndarray:
    """Indices of texts drawn again within each kind."""
    return np.concatenate([rng.choice(np.flatnonzero(kinds == k), (kinds == k).sum()) for k in np.unique(kinds)])
