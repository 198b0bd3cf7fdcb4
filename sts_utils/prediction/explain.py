"""Why a prediction: what the most shifted features are, shown by the texts they fire on and the words they promote."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import torch

from sts_utils import models, saes
from sts_utils.config import Profile
from sts_utils.examples import Example
from sts_utils.runs import samples, units

if TYPE_CHECKING:
    from sts_utils.prediction.prediction import Prediction

#: Texts read of the training set, and of each domain, a sample; their tokens at most; tokens shown around the peak.
TRAIN_TEXTS, DOMAIN_TEXTS, TOKENS, AROUND = 32, 4, 256, 10
READING = f"{TRAIN_TEXTS} of your examples and {DOMAIN_TEXTS} of each domain, the first {TOKENS} tokens of each"
#: Stands for a domain's name where the text is the training set's.
OWN = "the training set"
#: Spans, domains and words shown for a feature.
SPANS, DOMAINS, WORDS = 2, 3, 8


@dataclass(frozen=True)
class Span:
    """A piece of text around the token where a feature fires hardest: (token, activation over the peak's) pairs."""

    domain: str
    peak: float
    tokens: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Feature:
    """One shifted feature. `shift` is E_x (Δh)² (less the contrast where the score is contrastive), `domains` the
    (name, mean activation a token) that use it most, `train` and `elsewhere` the spans where it fires hardest,
    `promotes` the tokens whose logits its decoder direction raises most, `link` its page on Neuronpedia."""

    id: int
    shift: float
    domains: tuple[tuple[str, float], ...]
    train: tuple[Span, ...]
    elsewhere: tuple[Span, ...]
    promotes: tuple[str, ...]
    link: str | None


@dataclass(frozen=True, repr=False)
class Explanation:
    """The most shifted features, largest shift first; a notebook shows them as HTML."""

    features: tuple[Feature, ...]

    def __repr__(self) -> str:
        return f"Explanation of features {', '.join(str(f.id) for f in self.features)}"

    def _repr_html_(self) -> str:
        return f"<style>{template().spans_style()}</style>{template().cards(self.features)}"


@cache
def template():
    """The macros of page.html.jinja; whatever they are given is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    options = {"undefined": jinja2.StrictUndefined, "autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, **options).get_template("page.html.jinja").module


def explanation(prediction: "Prediction", k: int) -> Explanation:
    """The `k` most shifted features of a prediction. Raises ValueError for k outside 1..features of the SAE."""
    if not 1 <= k <= len(prediction.shifts):
        raise ValueError(f"k is {k}: choose 1..{len(prediction.shifts)} features")
    ids = np.argsort(-prediction.shifts, kind="stable")[:k]
    means = {d: np.mean([s.mean("h")[ids] for s in of], axis=0) for d, of in prediction.used.items()}
    words = promoted(prediction.profile, ids)
    known = units.sae(prediction.profile).cfg.metadata.neuronpedia_id
    texts = [(OWN, e) for e in _some(prediction.train, TRAIN_TEXTS)]
    texts += [(d, e) for d in prediction.used for e in _some(prediction.examples[d], DOMAIN_TEXTS)]
    spans = _spans(prediction.profile, ids, texts)
    found = []
    for i, feature in enumerate(ids.tolist()):
        using = sorted(((float(mean[i]), d) for d, mean in means.items() if mean[i] > 0), reverse=True)
        hardest = sorted({span.tokens: span for span in spans[i]}.values(), key=lambda span: -span.peak)
        sides = [[s for s in hardest if (s.domain == OWN) == own][:SPANS] for own in (True, False)]
        found.append(
            Feature(
                feature, float(prediction.shifts[feature]), tuple((d, mean) for mean, d in using[:DOMAINS]),
                tuple(sides[0]), tuple(sides[1]), words[i],
                f"https://www.neuronpedia.org/{known}/{feature}" if known else None,
            )
        )  # fmt: skip
    return Explanation(tuple(found))


def _some(examples: Sequence[Example], count: int) -> list[Example]:
    return random.Random(0).sample(list(examples), min(count, len(examples)))


@torch.inference_mode()
def promoted(profile: Profile, ids: np.ndarray) -> list[tuple[str, ...]]:
    """For each feature the tokens whose logits rise most along its decoder row: final norm and unembedding of it."""
    model = models.load_model(profile.model, profile.dtype)
    rows = units.sae(profile).W_dec[torch.as_tensor(ids)].to(model.device, model.dtype)
    top = models.vocabulary_logits(model, model.model.norm(rows)).topk(WORDS).indices
    return [tuple(samples.tokenizer(profile.model).decode([token]).strip() for token in row) for row in top.tolist()]


@torch.inference_mode()
def _spans(profile: Profile, ids: np.ndarray, texts) -> list[list[Span]]:
    """For each feature a span around its peak in every text where it fires; position 0 and sinks are left out."""
    found = [[] for _ in ids]
    for domain, example in texts:
        text = f"{example.query}\n{example.solution}".strip()
        read = samples.tokenizer(profile.model)(text, return_offsets_mapping=True)  # with BOS where the model has one
        tokens, offsets = read.input_ids[:TOKENS], read.offset_mapping[:TOKENS]
        ends = [0, *(stop for _, stop in offsets)]
        if len(tokens) < 2:
            continue
        rows = units.backbone(profile)(input_ids=torch.tensor([tokens], device=models.device()), use_cache=False)
        rows = rows.last_hidden_state[0].float()
        h = saes.encode(units.sae(profile), rows, torch.as_tensor(ids))
        h[rows.norm(dim=-1) >= units.sink_norm(profile)] = 0
        h[0] = 0
        for feature, fired in enumerate(h.T.cpu().numpy()):
            at, peak = int(fired.argmax()), float(fired.max())
            if peak > 0:
                window = range(max(0, at - AROUND), min(len(tokens), at + AROUND + 1))
                # several tokens may share a character: it is shown once
                shown = tuple((text[ends[t] : ends[t + 1]], float(fired[t]) / peak) for t in window)
                found[feature].append(Span(domain, peak, shown))
    return found
