import numpy as np
import pytest
import torch

from sts_utils import corpora, prompts
from sts_utils import features as released
from sts_utils.features import Hook


@pytest.fixture(scope="module")
def pairs(tokenizer):
    shown = [corpora.load("gsm-symbolic", 1, 2), corpora.load("gsm-symbolic", 2, 2)]
    return prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 7), shown, 8192)


def one(model, ids):
    """A prompt of its own, where the model is."""
    return torch.tensor([ids], device=model.device)


def test_stream_compares_row_i_with_row_i(pairs, backbone, sae):
    generated = {(pairs[0][0].example_id, "plain"): [5, 6, 7]}
    stats = released.stream_stats(pairs, backbone, Hook(1, sae, np.inf), 150, generated)
    streams = []
    for side in (0, 1):
        ids = [list(pair[side].ids) for pair in pairs]
        if side == 0:
            ids[0] += [5, 6, 7]
        with torch.inference_mode():
            streams.append(
                torch.cat([backbone(one(backbone, i)).last_hidden_state[0] for i in ids])[:150]
            )
    with torch.inference_mode():
        a, b = (sae.encode(s).double() for s in streams)
    assert stats.n.sum() == 150
    np.testing.assert_allclose(
        stats.dh2.sum(0), ((a - b) ** 2).sum(0).cpu().numpy(), rtol=1e-4, atol=1e-4
    )


def test_generation_continues_the_whole_prompt(pairs, whole, tokenizer):
    found = released.continuations(whole, tokenizer, [pairs[0][0]], 3)
    ids = list(pairs[0][0].ids)
    for token in found[pairs[0][0].example_id, "plain"]:
        with torch.inference_mode():
            assert whole(one(whole, ids)).logits[0, -1].argmax().item() == token
        ids.append(token)
