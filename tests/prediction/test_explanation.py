"""The features behind a prediction, against brute force."""

from dataclasses import replace

import numpy as np
import pytest

from sts_utils.prediction import explanation, page
from sts_utils.runs import models as held
from sts_utils.runs import samples


def test_explanation(found):
    features = found.explain(4).features
    assert [f.id for f in features] == np.argsort(-found.shifts, kind="stable")[:4].tolist()
    assert features[0].shift == pytest.approx(found.shifts.max())
    spans = [s for f in features for s in (*f.train, *f.elsewhere)]
    assert spans and all(max(level for _, level in s.tokens) == pytest.approx(1) for s in spans)
    texts = [
        "\n".join((e.query, e.solution))
        for e in (*found.train, *(e for of in found.questions.values() for e in of))
    ]
    assert all(any("".join(t for t, _ in s.tokens) in text for text in texts) for s in spans)
    assert all(s.domain == explanation.OWN for f in features for s in f.train)
    for f in features:
        for domain, mean in f.domains:
            assert mean == pytest.approx(
                np.mean([of[domain].mean("h")[f.id] for of in found.domain_stats])
            )
    hostile = replace(features[0], promotes=("<script>",))
    assert "&lt;script&gt;" in page.macros().cards(explanation.Explanation((hostile,)))
    with pytest.raises(ValueError, match=r"k is 0: choose 1..512"):
        found.explain(0)


def test_spans_peak_where_the_feature_is_strongest(found, backbone, sae):
    """Against the features of the text alone, by brute force."""
    from sts_utils.features import query_residuals

    feature = found.explain(1).features[0]
    span = feature.train[0]
    text = next(
        f"{e.query}\n{e.solution}"
        for e in found.train
        if "".join(t for t, _ in span.tokens) in f"{e.query}\n{e.solution}"
    )
    ids = samples.tokenizer("tiny")(text, add_special_tokens=False).input_ids[: explanation.TOKENS]
    h = sae.encode(query_residuals(held.backbone(found.profile), None, [ids], [0])[0])[
        1:, feature.id
    ]
    assert span.peak == pytest.approx(h.max().item(), rel=1e-4)


def test_logit_lens(found, whole):
    (words,) = explanation.promoted(found.profile, np.array([7]))
    direction = whole.model.norm(held.sae(found.profile).W_dec[7:8])
    best = whole.lm_head(direction)[0].argmax().item()
    assert words[0] == samples.tokenizer("tiny").decode([best]).strip()


def test_neuronpedia_link(found, monkeypatch):
    assert all(f.link is None for f in found.explain(2).features)
    monkeypatch.setattr(held.sae(found.profile).cfg.metadata, "neuronpedia_id", "model/20-res")
    feature = found.explain(1).features[0]
    assert feature.link == f"https://www.neuronpedia.org/model/20-res/{feature.id}"
