"""Tables 7 and 8: what the shifted dims are about, by the kind of text that drives them hardest."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from lm_eval.api.instance import Instance
from tqdm import tqdm

from sts_utils import corpora, generation, results, stats, store
from sts_utils.config import Profile
from sts_utils.evaluation.options import OptionsLM
from sts_utils.method.extract import Hook
from sts_utils.results import Claim, Result
from sts_utils.runs import models, samples
from sts_utils.runs.peaks import activations
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate

KINDS = ("math", "code", "dialogue")
#: Of D_N in Table 7; the ranks among which Table 8 looks for labelled features.
SIZES, DEEP = (50, 100, 200), 500


class Labels(NamedTuple):
    """What texts do to features, and what they are."""

    peaks: np.ndarray  # [texts, F] highest activation of each feature in each text
    kinds: np.ndarray  # [texts] where a text is from, an index into KINDS
    judged: np.ndarray  # [texts] the kind that the model itself names


class Numbers(NamedTuple):
    """Shares of dims labelled mathematics, recall by label, and how often the judge is right."""

    share: dict[object, Estimate]
    recall: dict[str, Estimate]
    agreement: float


def compute(run: Run) -> Numbers:
    """How the shifted dims are labelled."""
    labels = peaks_of(run.profile)
    ranked = [dims.ids for dims in run.ranked]
    share, recall = shares(labels, ranked, run.profile.labels.top)
    return Numbers(share, recall, float((labels.judged == labels.kinds).mean()))


def steps(profile: Profile) -> list[Step]:
    """The texts as the SAE and the model read them."""
    return [Step("labels", peaks_of, (profile,), "02_shift_detect")]


def peaks_of(profile: Profile) -> Labels:
    """Texts of the three kinds, read by the SAE, and by the model as a judge."""
    sequences, kinds = texts(profile)
    p, tokenizer = profile, samples.tokenizer(profile.model, profile.revision)

    def compute() -> dict[str, np.ndarray]:
        found = peaks(models.backbone(p), models.hook(p), sequences)
        return {"peaks": found, "judged": judged(models.load_whole(p), tokenizer, sequences)}

    recipe = p.labels.model_dump() | {"model": p.model, "revision": p.revision, "sae": p.sae}
    recipe |= {"train": p.train, "dtypes": (p.dtype, p.evaluation.dtype)}
    read = store.arrays("labels", recipe, compute)
    return Labels(read["peaks"], kinds, read["judged"])


def texts(profile: Profile) -> tuple[list[list[int]], np.ndarray]:
    """(token ids of the texts, kind of each), equally many of each kind."""
    settings, tokenizer = profile.labels, samples.tokenizer(profile.model, profile.revision)
    names = (profile.train, settings.code, settings.dialogue)
    read = [corpora.load(name, 0, settings.samples) for name in names]
    fewest, ids = min(map(len, read)), []
    for corpus in read:
        written = [f"{e.question}\n{e.solution}".strip() for e in corpus[:fewest]]
        ids += tokenizer(written, add_special_tokens=False).input_ids
    return [of[: settings.tokens] for of in ids], np.repeat(np.arange(len(KINDS)), fewest)


def peaks(model, hook: Hook, sequences: Sequence[list[int]]) -> np.ndarray:
    """[texts, F] highest activation of each feature in a text; `model` ends at the SAE's layer."""
    bar = tqdm(sequences, desc="highest activations", unit="text", leave=False)
    return np.stack([activations(model, hook, ids).amax(0).cpu().numpy() for ids in bar])


def judged(model, tokenizer, sequences: Sequence[list[int]]) -> np.ndarray:
    """[texts] the kind that the whole model gives each text: the likeliest of three words.

    The judge-free `votes` need only know where a text came from; the paper asks a language model.
    """
    asked = "What is this text? Answer with one word: math, code or dialogue."
    requests = []
    for ids in sequences:
        prompt = generation.chat_text(tokenizer, f"{tokenizer.decode(ids)}\n\n{asked}")
        requests += [Instance("loglikelihood", {}, (prompt, word), 0) for word in KINDS]
    scored = OptionsLM(model, tokenizer, desc="judge").loglikelihood(requests)
    return np.array([value for value, _ in scored]).reshape(-1, len(KINDS)).argmax(1)


def votes(peaks: np.ndarray, kinds: np.ndarray, top: int = 10) -> np.ndarray:
    """[F, kinds] share of each kind among the `top` texts on which a feature fires hardest.

    A feature that fires on fewer is judged by those; one that never fires has NaN.
    """
    order = np.argsort(-peaks, axis=0, kind="stable")[:top]
    fired = np.take_along_axis(peaks, order, 0) > 0
    counts = [((kinds[order] == kind) & fired).sum(0) for kind in range(len(KINDS))]
    counts = np.stack(counts, -1).astype(float)
    total = counts.sum(-1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def labelled(votes: np.ndarray) -> np.ndarray:
    """[F] the kind with the most votes; −1 for a feature that never fires or whose vote is tied."""
    best = np.nan_to_num(votes).max(-1, keepdims=True)
    winners = (votes == best) & (best > 0)
    return np.where(winners.sum(-1) == 1, winners.argmax(-1), -1)


def shares(
    labels: Labels, ranked: Sequence[np.ndarray], top: int, sizes=SIZES, draws: int = 200
) -> tuple[dict, dict]:
    """(share, recall) of the features `ranked` by their shift, [S] arrays of ids.

    share: size -> share of D_size labelled mathematics, and "all": of every labelled feature (the
    base rate). recall: mathematics and code -> share of 100 features with that label among the
    first 500, and "chance". Replicates draw texts, seeds and the 100 features again.
    """
    size, kinds = len(ranked[0]), labels.kinds
    deep, taken = min(DEEP, size // 2), [n for n in sizes if n <= size]
    share, recall = {n: [] for n in (*taken, "all")}, {"math": [], "code": []}
    for draw in range(draws + 1):
        rng = np.random.default_rng(draw)
        picked = _redrawn(kinds, rng) if draw else np.arange(len(kinds))
        of = labelled(votes(labels.peaks[picked], kinds[picked], top))
        for n in taken:
            share[n].append([_mathematics(of[ids[:n]]) for ids in ranked])
        share["all"].append([_mathematics(of)] * len(ranked))
        for kind, name in enumerate(recall):
            members = np.flatnonzero(of == kind)
            some = rng.choice(members, min(100, len(members)), replace=False)
            hits = [np.isin(some, ids[:deep]).mean() if len(some) else 0.0 for ids in ranked]
            recall[name].append(hits)
    chance = {"chance": Estimate(deep / size, np.array([deep / size]))}
    return _estimates(share), _estimates(recall) | chance


def _mathematics(labels: np.ndarray) -> float:
    """The share labelled mathematics, of those that have a label."""
    return float((labels == 0).sum() / max((labels >= 0).sum(), 1))


def _redrawn(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of texts drawn again within each kind."""
    groups = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    return np.concatenate([rng.choice(group, len(group)) for group in groups])


def _estimates(rows: dict) -> dict[object, Estimate]:
    """Of [1 + B][S] values, the first the observed ones."""
    values = {name: np.array(of) for name, of in rows.items()}
    return {n: Estimate(float(v[0].mean()), stats.over_seeds(v[1:])) for n, v in values.items()}


def table7(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Share of the shifted dims labelled mathematics."""
    theirs = results.paper("table07_math_share").set_index("top_n").math_percent / 100
    rows = [
        {"dims": f"D_{n}" if n != "all" else "all labelled"}
        | {**results.numbers(e), "paper": theirs.get(n)}
        for n, e in numbers.share.items()
    ]
    return pd.DataFrame(rows), (
        "Table 7. Share of the shifted dims whose highest-activating texts are mostly mathematics, "
        "of those that fire on any; 'all labelled' is the base rate. "
        f"{_labelling(run.profile, numbers.agreement)}"
    )


def table8(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Recall of labelled dims among the top 500."""
    theirs = results.paper("table08_recall").set_index("annotation").recall_percent_in_top500 / 100
    rows = [
        {"label": name, **results.numbers(e), "paper": theirs.get(name)}
        for name, e in numbers.recall.items()
    ]
    return pd.DataFrame(rows), (
        "Table 8. Share of (at most) 100 features labelled mathematics, and of 100 labelled code, "
        f"that are among the 500 most shifted. {_labelling(run.profile, numbers.agreement)}"
    )


def _labelling(profile: Profile, agreement: float) -> str:
    s = profile.labels
    return (
        f"Labels: the {s.top} texts on which a feature fires hardest, out of equally many of three "
        f"kinds (mathematics: {profile.train}, code: {s.code}, dialogue: {s.dialogue}), vote by "
        "their source, so no judge is needed. The model as its own judge names the source of "
        f"{agreement:.0%} of the texts (chance 33%), and is not used. The paper: an LLM judge."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """The shifted dims are mathematics rather than code."""
    share, recall = numbers.share, numbers.recall
    for n in [size for size in share if size != "all"]:
        statistic = f"share labelled so in D_{n} minus base rate"
        gap = share[n] - share["all"]
        yield Claim("table7", "the shifted dims are mathematics", statistic, gap)
    claim = "mathematics features are found, code features are not"
    statistic = "recall in the top 500, mathematics minus code"
    yield Claim("table8", claim, statistic, recall["math"] - recall["code"])


RESULTS = (
    Result(table7, "Table 7: what the shifted dims are about", "table"),
    Result(table8, "Table 8: recall of labelled dims", "table"),
)
