"""Tables 7 and 8: what features are about, by the kind of text that drives them hardest."""

from collections.abc import Sequence

import numpy as np
import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm

from sts_utils import corpora, generate, models, questions, run, saes, stats
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.evaluate import OptionsLM
from sts_utils.features import Hook
from sts_utils.stats import Estimate

KINDS = ("math", "code", "dialogue")
#: Of D_N in Table 7; the ranks among which Table 8 looks for labelled features.
SIZES, DEEP = (50, 100, 200), 500
#: Tokens shown that a feature promotes.
WORDS = 8

# --- texts, and what they do to features ---------------------------------------------------------


def texts(p: Profile) -> tuple[list[list[int]], np.ndarray]:
    """(token ids of the texts, kind of each), equally many of each kind."""
    names = (p.train, p.labels.code, p.labels.dialogue)
    read = [corpora.load(name, 0, p.labels.samples) for name in names]
    fewest, ids = min(map(len, read)), []
    for corpus in read:
        written = [f"{e.question}\n{e.solution}".strip() for e in corpus[:fewest]]
        ids += questions.tokenizer(p)(written).input_ids  # with BOS where the model has one
    return [text[: p.labels.tokens] for text in ids], np.repeat(np.arange(len(KINDS)), fewest)


@cached(*run.MODEL, "layer", "sae", "dtype", "evaluation.dtype", "train", "labels")
def peaks(p: Profile) -> dict[str, np.ndarray]:
    """`peaks` [texts, F], the highest activation of each feature in each text; `kinds` [texts],
    where a text is from, an index into KINDS; `judged` [texts], what the model itself calls it."""
    sequences, kinds = texts(p)
    found = highest(run.backbone(p), run.hook(p), sequences)
    said = judged(run.whole(p), questions.tokenizer(p), sequences)
    return {"peaks": found, "kinds": kinds, "judged": said}


def highest(model, hook: Hook, sequences: Sequence[list[int]]) -> np.ndarray:
    """[texts, F] highest activation of each feature in a text; `model` ends at the SAE's layer."""
    bar = tqdm(sequences, desc="highest activations", unit="text", leave=False)
    return np.stack([activations(model, hook, ids).amax(0).cpu().numpy() for ids in bar])


@torch.inference_mode()
def activations(
    model, hook: Hook, ids: Sequence[int], features: Sequence[int] | None = None, first: int = 1
) -> torch.Tensor:
    """[tokens, F] features (all, or those named) of one text, its token ids as they are.

    0 at attention sinks and before token `first`, which are not encoded; by default position 0 is
    left out. `model` is truncated at the hook's layer.
    """
    read = torch.tensor([ids], device=model.device)
    rows = model(input_ids=read, use_cache=False).last_hidden_state[0].float()
    kept = rows.norm(dim=-1) < hook.sink_norm
    kept[:first] = False
    fired = saes.encode(hook.sae, rows[kept], features)
    h = fired.new_zeros(len(rows), fired.shape[-1])
    h[kept] = fired
    return h


def judged(model, tokenizer, sequences: Sequence[list[int]]) -> np.ndarray:
    """[texts] the kind that the whole model gives each text: the likeliest of three words.

    `votes` need only know where a text came from; the paper asks a language model.
    """
    asked = "What is this text? Answer with one word: math, code or dialogue."
    requests = []
    for ids in sequences:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        prompt = generate.chat_text(tokenizer, f"{text}\n\n{asked}")
        requests += [Instance("loglikelihood", {}, (prompt, word), 0) for word in KINDS]
    scored = OptionsLM(model, tokenizer, desc="judge").loglikelihood(requests)
    return np.array([value for value, _ in scored]).reshape(-1, len(KINDS)).argmax(1)


@torch.inference_mode()
def promoted(p: Profile, ids: np.ndarray) -> list[tuple[str, ...]]:
    """For each feature the tokens whose logits rise most along its decoder row, which goes through
    the final norm and the unembedding."""
    model = models.load_model(p.model, p.dtype, p.revision)
    rows = run.sae(p).W_dec[torch.as_tensor(ids)].to(model.device, model.dtype)
    top = models.vocabulary_logits(model, model.model.norm(rows)).topk(WORDS).indices
    decode = questions.tokenizer(p).decode
    return [tuple(decode([token]).strip() for token in row) for row in top.tolist()]


# --- labels --------------------------------------------------------------------------------------


def votes(peaks: np.ndarray, kinds: np.ndarray, top: int = 10) -> np.ndarray:
    """[F, kinds] share of each kind among the `top` texts on which a feature fires hardest.

    A feature that fires on fewer is judged by those; one that never fires has NaN.
    """
    fired = torch.as_tensor(peaks).T.contiguous()  # [F, texts]: sorting 131,072 features takes long
    least = fired.topk(min(top, len(peaks))).values[:, -1:]
    above, tied = fired > least, fired == least
    left = top - above.sum(1, keepdim=True)
    first = tied & (tied.cumsum(1, dtype=torch.int16) <= left)
    chosen = (above | first) & (fired > 0)
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
    peaks: np.ndarray,
    kinds: np.ndarray,
    ranked: Sequence[np.ndarray],
    top: int,
    sizes=SIZES,
    draws: int = 200,
) -> tuple[dict, dict]:
    """(share, recall) of the features `ranked` by their shift, [S] arrays of ids.

    share: kind -> size -> share of D_size labelled so, and "all": of every labelled feature (the
    base rate). recall: mathematics and code -> share of the features with that label among the
    first 500, which is the mean over every draw of 100 of them, and "chance". Replicates draw
    texts and seeds again.
    """
    size, picked = len(ranked[0]), np.arange(len(kinds))
    deep, taken = min(DEEP, size // 2), [n for n in sizes if n <= size]
    share, recall = {k: {n: [] for n in (*taken, "all")} for k in KINDS}, {"math": [], "code": []}
    for draw in range(draws + 1):  # the first is as observed
        if draw:
            rng = np.random.default_rng(draw)  # texts of each kind, with replacement
            places = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
            picked = np.concatenate([rng.choice(place, len(place)) for place in places])
        label = labelled(votes(peaks[picked], kinds[picked], top))
        for kind, name in enumerate(KINDS):
            for n in taken:
                share[name][n].append([_share(label[ids[:n]], kind) for ids in ranked])
            share[name]["all"].append([_share(label, kind)] * len(ranked))
        for kind, name in enumerate(recall):
            members = max((label == kind).sum(), 1)
            recall[name].append([(label[ids[:deep]] == kind).sum() / members for ids in ranked])
    chance = {"chance": Estimate(deep / size, np.array([deep / size]))}
    return {kind: _estimates(rows) for kind, rows in share.items()}, _estimates(recall) | chance


def _share(labels: np.ndarray, kind: int) -> float:
    """The share labelled so, of those that have a label."""
    return float((labels == kind).sum() / max((labels >= 0).sum(), 1))


def _estimates(rows: dict) -> dict[object, Estimate]:
    """Of [1 + B][S] values, the first the observed ones."""
    return {name: stats.over_seeds_of(np.array(values)) for name, values in rows.items()}


def enrichment(share: dict[object, Estimate], n: int) -> Estimate:
    """The share of D_n with a label over that of every labelled feature."""
    base = share["all"]
    return Estimate(share[n].value / base.value, share[n].draws / base.draws)
