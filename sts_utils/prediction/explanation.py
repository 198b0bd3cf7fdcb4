"""Why a prediction: the most shifted features, where they fire and which words they promote."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sts_utils import models
from sts_utils.config import Profile
from sts_utils.prediction import page
from sts_utils.prediction.sources import drawn
from sts_utils.runs import models as held
from sts_utils.runs import peaks, samples

if TYPE_CHECKING:
    from sts_utils.prediction.prediction import Prediction

#: Texts read of the training set, and of each domain, a sample; their tokens at most; tokens shown
#: before and after a peak.
TRAIN_TEXTS, DOMAIN_TEXTS, TOKENS, AROUND = 32, 4, 256, 10
#: Stands for a domain's name where the text is the training set's.
OWN = "the training set"
#: Spans, domains and words shown for a feature.
SPANS, DOMAINS, WORDS = 2, 3, 8


@dataclass(frozen=True)
class Span:
    """Text around a feature's peak."""

    domain: str
    peak: float
    tokens: tuple[tuple[str, float], ...]  # (text, activation over the peak's)


@dataclass(frozen=True)
class Feature:
    """One shifted feature."""

    id: int
    shift: float  # E_x (Δh)²
    domains: tuple[tuple[str, float], ...]  # that use it most, and its mean activation a token
    train: tuple[Span, ...]  # where it fires hardest
    elsewhere: tuple[Span, ...]
    promotes: tuple[str, ...]  # tokens whose logits its decoder direction raises most
    link: str | None  # to Neuronpedia


@dataclass(frozen=True, repr=False)
class Explanation:
    """The most shifted features, largest shift first; a notebook shows them as HTML."""

    features: tuple[Feature, ...]
    texts = (TRAIN_TEXTS, DOMAIN_TEXTS, TOKENS)

    def __repr__(self) -> str:
        return f"Explanation of features {', '.join(str(f.id) for f in self.features)}"

    def _repr_html_(self) -> str:
        return f"<style>{page.macros().spans_style()}</style>{page.macros().cards(self)}"


def explain(prediction: "Prediction", k: int = 10) -> Explanation:
    """The `k` most shifted features: who uses them, where they fire, what they promote.

    Raises ValueError for k outside 1..features of the SAE.
    """
    profile, shifts = prediction.profile, prediction.shifts
    if not 1 <= k <= len(shifts):
        raise ValueError(f"k is {k}: choose 1..{len(shifts)} features")
    ids = np.argsort(-shifts, kind="stable")[:k]
    words, spans = promoted(profile, ids), _spans(prediction, ids)
    known = held.sae(profile).cfg.metadata.neuronpedia_id
    seeds, features = prediction.domain_stats, []
    means = {d: np.mean([of[d].mean("h") for of in seeds], axis=0) for d in prediction.domains}
    for feature, promotes, places in zip(ids.tolist(), words, spans, strict=True):
        hardest = sorted({s.tokens: s for s in places}.values(), key=lambda span: -span.peak)
        own = tuple(s for s in hardest if s.domain == OWN)[:SPANS]
        elsewhere = tuple(s for s in hardest if s.domain != OWN)[:SPANS]
        using = sorted(((float(means[d][feature]), d) for d in means), reverse=True)[:DOMAINS]
        most = tuple((d, mean) for mean, d in using if mean > 0)
        link = f"https://www.neuronpedia.org/{known}/{feature}" if known else None
        moved = float(shifts[feature])
        features.append(Feature(feature, moved, most, own, elsewhere, promotes, link))
    return Explanation(tuple(features))


@torch.inference_mode()
def promoted(profile: Profile, ids: np.ndarray) -> list[tuple[str, ...]]:
    """For each feature the tokens whose logits rise most along its decoder row, which goes through
    the final norm and the unembedding."""
    model = models.load_model(profile.model, profile.dtype, profile.revision)
    rows = held.sae(profile).W_dec[torch.as_tensor(ids)].to(model.device, model.dtype)
    top = models.vocabulary_logits(model, model.model.norm(rows)).topk(WORDS).indices
    decode = samples.tokenizer(profile.model, profile.revision).decode
    return [tuple(decode([token]).strip() for token in row) for row in top.tolist()]


def _spans(prediction: "Prediction", ids: np.ndarray) -> list[list[Span]]:
    """For each feature a span around its peak in every text where it fires, of a sample of the
    training set and of each domain."""
    profile, spans = prediction.profile, [[] for _ in ids]
    model, hook = held.backbone(profile), held.hook(profile)
    tokenizer = samples.tokenizer(profile.model, profile.revision)
    chosen = [(OWN, e) for e in drawn(prediction.train, TRAIN_TEXTS)]
    for domain in prediction.domains:
        chosen += [(domain, e) for e in drawn(prediction.questions[domain], DOMAIN_TEXTS)]
    for domain, e in chosen:
        text = f"{e.query}\n{e.solution}".strip()
        read = tokenizer(text, return_offsets_mapping=True)  # with BOS where the model has one
        ends = [0, *(stop for _, stop in read.offset_mapping[:TOKENS])]
        if len(ends) <= 2:
            continue
        h = peaks.activations(model, hook, read.input_ids[:TOKENS], ids)
        for of_feature, fired in zip(spans, h.T.cpu().numpy(), strict=True):
            at, peak = int(fired.argmax()), float(fired.max())
            if peak > 0:
                window = range(max(0, at - AROUND), min(len(fired), at + AROUND + 1))
                # several tokens may share a character: it is shown once
                pieces = ((text[ends[t] : ends[t + 1]], float(fired[t]) / peak) for t in window)
                of_feature.append(Span(domain, peak, tuple(pieces)))
    return spans
