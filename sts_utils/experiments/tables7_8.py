"""Tables 7 and 8: what the shifted dims are about, by the kind of text that drives them hardest."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm

from sts_utils import corpora, results, stats, store
from sts_utils import generate as generation
from sts_utils.config import Profile
from sts_utils.evaluate import OptionsLM
from sts_utils.features import Hook
from sts_utils.results import Claim, Result
from sts_utils.runs import models, recipes, samples
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
    """Shares of dims with each label, by kind and size, and recall by label."""

    share: dict[str, dict[object, Estimate]]
    recall: dict[str, Estimate]

    def enrichment(self, n: int) -> Estimate:
        """Share of D_n labelled mathematics over that of every labelled feature."""
        share, base = self.share["math"][n], self.share["math"]["all"]
        return Estimate(share.value / base.value, share.draws / base.draws)


def compute(run: Run) -> Numbers:
    """How the shifted dims are labelled."""
    labels = peaks_of(run.profile)
    return Numbers(*shares(labels, [dims.ids for dims in run.ranked], run.profile.labels.top))


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

    others = [corpora.content(name) for name in (p.labels.code, p.labels.dialogue)]
    told = {"others": others, "dtypes": (p.dtype, p.evaluation.dtype)}
    recipe = recipes.of(p, "model", "revision", "layer", "sae", "train", "labels", **told)
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
        ids += tokenizer(written).input_ids  # with the BOS that the model was trained with
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
        text = tokenizer.decode(ids, skip_special_tokens=True)
        prompt = generation.chat_text(tokenizer, f"{text}\n\n{asked}")
        requests += [Instance("loglikelihood", {}, (prompt, word), 0) for word in KINDS]
    scored = OptionsLM(model, tokenizer, desc="judge").loglikelihood(requests)
    return np.array([value for value, _ in scored]).reshape(-1, len(KINDS)).argmax(1)


def votes(peaks: np.ndarray, kinds: np.ndarray, top: int = 10) -> np.ndarray:
    """[F, kinds] share of each kind among the `top` texts on which a feature fires hardest.

    A feature that fires on fewer is judged by those; one that never fires has NaN.
    """
    of = torch.as_tensor(peaks).T.contiguous()  # [F, texts]: sorting 131,072 features takes long
    least = of.topk(min(top, len(peaks))).values[:, -1:]
    above, tied = of > least, of == least
    left = top - above.sum(1, keepdim=True)
    chosen = (above | (tied & (tied.cumsum(1, dtype=torch.int16) <= left))) & (of > 0)  # the first
    of_kind = torch.as_tensor(kinds[:, None] == np.arange(len(KINDS)))
    counts = (chosen.float() @ of_kind.float()).double().numpy()
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

    share: kind -> size -> share of D_size labelled so, and "all": of every labelled feature (the
    base rate). recall: mathematics and code -> share of the features with that label among the
    first 500, which is the mean over every draw of 100 of them, and "chance". Replicates draw
    texts and seeds again.
    """
    size, kinds = len(ranked[0]), labels.kinds
    deep, taken = min(DEEP, size // 2), [n for n in sizes if n <= size]
    share, recall = {k: {n: [] for n in (*taken, "all")} for k in KINDS}, {"math": [], "code": []}
    for draw in range(draws + 1):
        rng = np.random.default_rng(draw)
        picked = _redrawn(kinds, rng) if draw else np.arange(len(kinds))
        of = labelled(votes(labels.peaks[picked], kinds[picked], top))
        for kind, name in enumerate(KINDS):
            for n in taken:
                share[name][n].append([_share(of[ids[:n]], kind) for ids in ranked])
            share[name]["all"].append([_share(of, kind)] * len(ranked))
        for kind, name in enumerate(recall):
            members = max((of == kind).sum(), 1)
            recall[name].append([(of[ids[:deep]] == kind).sum() / members for ids in ranked])
    chance = {"chance": Estimate(deep / size, np.array([deep / size]))}
    return {kind: _estimates(rows) for kind, rows in share.items()}, _estimates(recall) | chance


def _share(labels: np.ndarray, kind: int) -> float:
    """The share labelled so, of those that have a label."""
    return float((labels == kind).sum() / max((labels >= 0).sum(), 1))


def _redrawn(kinds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Indices of texts drawn again within each kind."""
    groups = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
    return np.concatenate([rng.choice(group, len(group)) for group in groups])


def _estimates(rows: dict) -> dict[object, Estimate]:
    """Of [1 + B][S] values, the first the observed ones."""
    values = {name: np.array(of) for name, of in rows.items()}
    return {n: Estimate(float(v[0].mean()), stats.over_seeds(v[1:])) for n, v in values.items()}


def table7(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Share of the shifted dims labelled mathematics, and that over the base rate."""
    theirs = results.paper("table07_math_share").set_index("top_n").math_percent / 100
    rows = []
    for n, e in numbers.share["math"].items():
        row = {"dims": f"D_{n}" if n != "all" else "all labelled", **results.numbers(e)}
        if n != "all":
            more = results.numbers(numbers.enrichment(n))
            row |= {"enrichment": more.pop("value")}
            row |= {f"enrichment {side}": value for side, value in more.items()}
        row |= {kind: numbers.share[kind][n].value for kind in KINDS[1:]}
        rows.append(row | {"paper's share": theirs.get(n)})
    return pd.DataFrame(rows), (
        "Table 7. Share of the shifted dims labelled mathematics, of those with a label, and "
        "enrichment: over the share of 'all labelled'; 95% intervals. Then the share of the other "
        f"labels. {_labelling(run.profile)}"
    )


def table8(numbers: Numbers, run: Run) -> tuple[pd.DataFrame, str]:
    """Recall of labelled dims among the top 500."""
    theirs = results.paper("table08_recall").set_index("annotation").recall_percent_in_top500 / 100
    rows = [
        {"label": name, **results.numbers(e), "paper": theirs.get(name)}
        for name, e in numbers.recall.items()
    ]
    return pd.DataFrame(rows), (
        "Table 8. Share of the features labelled mathematics, and of those labelled code, among "
        f"the {DEEP} most shifted (the paper draws 100 of each once). {_labelling(run.profile)}"
    )


def _labelling(profile: Profile) -> str:
    s = profile.labels
    return (
        f"A feature's label is the commonest source of the {s.top} texts on which it fires hardest "
        f"({profile.train}, {s.code}, {s.dialogue} in equal numbers). The paper: an LLM judge."
    )


def claims(numbers: Numbers, run: Run) -> Iterator[Claim]:
    """The shifted dims are mathematics more often than others are, and rather than code."""
    for n in [size for size in numbers.share["math"] if size != "all"]:
        statistic = f"share labelled so in D_{n} over the base rate, minus 1"
        claim = "the shifted dims are enriched in mathematics"
        yield Claim("table7", claim, statistic, numbers.enrichment(n) - 1)
    claim = "more of the mathematics features are found than of the code features"
    statistic = f"recall in the top {DEEP}, mathematics minus code"
    yield Claim("table8", claim, statistic, numbers.recall["math"] - numbers.recall["code"])


RESULTS = (
    Result(table7, "Table 7: what the shifted dims are about", "table"),
    Result(table8, "Table 8: recall of labelled dims", "table"),
)
