"""Tables 7 and 8: what features are about, by the kind of text that drives them hardest."""

import html
from collections.abc import Sequence

import numpy as np
import torch
from lm_eval.api.instance import Instance
from tqdm import tqdm

from sts_utils import corpora, generate, models, questions, run, saes
from sts_utils.cache import cached
from sts_utils.config import Profile
from sts_utils.evaluate import OptionsLM
from sts_utils.features import Hook, whole_rows
from sts_utils.prompts import chat_prompt

KINDS = ("math", "code", "dialogue")
WORDS = 8  # tokens shown that a feature promotes
ASKED = "What is this text? Answer with one word: math, code or dialogue."


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
    where a text is from, an index into KINDS; `judged` [texts], which of these the whole model
    itself calls it: the paper asks a language model."""
    (sequences, kinds), tokenizer, requests = texts(p), questions.tokenizer(p), []
    bar = tqdm(sequences, desc="highest activations", unit="text", leave=False)
    highest = [activations(run.backbone(p), run.hook(p), ids).amax(0).cpu().numpy() for ids in bar]
    for ids in sequences:
        text = tokenizer.decode(ids, skip_special_tokens=True)
        prompt = generate.chat_text(tokenizer, f"{text}\n\n{ASKED}")
        requests += [Instance("loglikelihood", {}, (prompt, word), 0) for word in KINDS]
    scored = OptionsLM(run.whole(p), tokenizer, desc="judge").loglikelihood(requests)
    judged = np.array([value for value, _ in scored]).reshape(-1, len(KINDS)).argmax(1)
    return {"peaks": np.stack(highest), "kinds": kinds, "judged": judged}


@torch.inference_mode()
def activations(model, hook: Hook, ids: Sequence[int], features=None, first=1) -> torch.Tensor:
    """[tokens, F] features (all, or those named) of one text's token ids, by a model truncated at
    the hook's layer. 0 at attention sinks and before token `first`, by default position 0."""
    (rows,) = whole_rows(model, [ids])
    kept = rows.norm(dim=-1) < hook.sink_norm
    kept[:first] = False
    fired = saes.encode(hook.sae, rows[kept], features)
    h = fired.new_zeros(len(rows), fired.shape[-1])
    h[kept] = fired
    return h


@cached(*run.READ, "train", "shift.held_out")
def density(p: Profile) -> dict[str, np.ndarray]:
    """`share` [F] of the query tokens of 128 held-out training questions on which each fires."""
    asked = [chat_prompt(questions.tokenizer(p), e) for e in questions.training_examples(p, 0)[1]]
    model = run.backbone(p), run.hook(p)
    fired = [activations(*model, q.ids, first=q.span[0])[slice(*q.span)] > 0 for q in asked[:128]]
    return {"share": torch.cat(fired).float().mean(0).cpu().numpy()}


@torch.inference_mode()
def promoted(p: Profile, ids: np.ndarray, lowered: bool = False) -> list[tuple[str, ...]]:
    """The tokens whose logits each feature's decoder row, behind the final norm, raises most, or
    lowers most."""
    model = models.load_model(p.model, p.dtype, p.revision)
    rows = run.sae(p).W_dec[torch.as_tensor(ids)].to(model.device, model.dtype)
    logits = models.vocabulary_logits(model, model.model.norm(rows))
    top = logits.topk(WORDS, largest=not lowered).indices
    decode = questions.tokenizer(p).decode
    return [tuple(decode([token]).strip() for token in row) for row in top.tolist()]


def coloured(tokenizer, ids: Sequence[int], values: np.ndarray) -> str:
    """HTML of a text's tokens, the more orange the higher the value, which hovering shows."""
    spans, most = [], max(values.max(initial=0), 1e-9)
    for token, value in zip(ids, values.tolist(), strict=True):
        look = f"background: rgba(222, 143, 5, {max(value, 0) / most:.2f})"
        look += "; color: black" if value > most / 2 else ""
        text = html.escape(tokenizer.decode([token])).replace("\n", "↵")
        spans.append(f'<span title="{value:.3g}" style="{look}">{text}</span>')
    return f'<p style="white-space: pre-wrap">{"".join(spans)}</p>'


def votes(peaks: np.ndarray, kinds: np.ndarray, top: int = 10) -> np.ndarray:
    """[F, kinds] share of each kind among the `top` texts on which a feature fires hardest, or
    among all on which it fires, if they are fewer; NaN where it never does."""
    order = np.argsort(-peaks, axis=0, kind="stable")[:top]  # [top, F]
    of_kind = np.asarray(kinds)[order][..., None] == np.arange(len(KINDS))
    counts = (of_kind & (np.take_along_axis(peaks, order, 0) > 0)[..., None]).sum(0)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)
