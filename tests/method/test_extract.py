"""What is read of a model equals brute force: sums over queries, the released code's streams."""

import numpy as np
import psutil
import pytest
import torch

from sts_utils import corpora, generate, models, prompts, saes
from sts_utils import features as extract
from sts_utils.features import FeatureStats, Hook, feature_stats


@pytest.fixture(scope="module")
def pairs(tokenizer):
    shown = [corpora.load("gsm-symbolic", 1, 2), corpora.load("gsm-symbolic", 2, 2)]
    return prompts.prompt_pairs(tokenizer, corpora.load("mmlu-test", 0, 7), shown, 8192)


EVERY = ("n", "h", "h2", "dh", "dh2", "r", "dr", "dr2")


def one_hook(pairs, model, sae, limit=np.inf, **more):
    """`feature_stats` of one SAE after the last block of `backbone`."""
    return feature_stats(pairs, model, [Hook(1, sae, limit)], **more)[0]


@pytest.fixture(scope="module")
def every(pairs, backbone, sae):
    return one_hook(pairs, backbone, sae)


@torch.inference_mode()
def states(model, ids):
    """Brute force: the whole prompt, alone, without a cache."""
    ids = torch.tensor([ids], device=model.device)
    return model(ids, use_cache=False).last_hidden_state[0].float()


def rows(model, prompt):
    return states(model, prompt.ids)[slice(*prompt.span)]


@torch.inference_mode()
def brute_force(pairs, a, b, sae, limit):
    sums = {k: [] for k in EVERY}
    for plain, icl in pairs:
        x, y = rows(a, plain), rows(b, icl)
        keep = (x.norm(dim=-1) < limit) & (y.norm(dim=-1) < limit)
        x, y = x[keep], y[keep]
        h, g, x, y = (of.double() for of in (sae.encode(x), sae.encode(y), x, y))
        values = (keep, h, h**2, g - h, (g - h) ** 2, x, y - x, (y - x) ** 2)
        for key, value in zip(sums, values, strict=True):
            sums[key].append(value.sum(0).cpu().numpy())
    return {k: np.stack(v) for k, v in sums.items()}


def close(stats, expected, rtol=2e-4, atol=2e-4):
    for key in EVERY:
        value = expected[key] if isinstance(expected, dict) else getattr(expected, key)
        found = getattr(stats, key)
        np.testing.assert_allclose(found, value, rtol=rtol, atol=atol, err_msg=key)


def test_sums_equal_brute_force_and_leave_out_sinks(pairs, backbone, sae, every):
    close(every, brute_force(pairs, backbone, backbone, sae, np.inf))
    assert every.ids == tuple(p.example_id for p, _ in pairs)
    np.testing.assert_array_equal(every.n, [len(p.query) for p, _ in pairs])
    limit = float(torch.cat([rows(backbone, p).norm(dim=-1) for p, _ in pairs]).median())
    stats = one_hook(pairs, backbone, sae, limit)
    assert 0 < stats.n.sum() < every.n.sum()
    close(stats, brute_force(pairs, backbone, backbone, sae, limit))


def test_behind_the_query_the_context_is_shared_and_the_query_is_not_counted(pairs, backbone, sae):
    behind = [(prompts.behind(plain), prompts.behind(icl)) for plain, icl in pairs]
    assert len(extract.by_context(behind)) == len(extract.by_context(pairs)) == 2
    stats = one_hook(behind, backbone, sae)
    close(stats, brute_force(behind, backbone, backbone, sae, np.inf))
    assert (stats.n == stats.n[0]).all() and stats.n[0] < min(len(p.query) for p, _ in pairs)


def test_two_models_are_compared_on_the_same_prompts(pairs, backbone, sae):
    other = models.load_truncated("tiny", 1)
    with torch.no_grad():
        other.layers[0].mlp.down_proj.weight.mul_(1.5)
    plain = [(p, p) for p, _ in pairs]
    stats = one_hook(plain, backbone, sae, other_model=other)
    close(stats, brute_force(plain, backbone, other, sae, np.inf))
    same = one_hook(plain, backbone, sae)
    assert same.dh2.sum() == 0 < stats.dh2.sum()


@pytest.mark.parametrize(("tokens", "rows"), [(64, 20), (300, 10**6), (100_000, 20)])
def test_batches_change_only_rounding(pairs, backbone, sae, every, tokens, rows, monkeypatch):
    """Of queries that are read together, and of rows that are encoded together."""
    monkeypatch.setattr(extract, "ENCODED_ROWS", rows)
    stats = one_hook(pairs, backbone, sae, tokens=tokens)
    assert stats.ids == every.ids
    # float32 forward passes of other shapes round otherwise; 1e-4 relative on sums over tokens
    close(stats, every)
    np.testing.assert_allclose(stats.mean("dh2").sum(), every.mean("dh2").sum(), rtol=1e-4)


def test_sink_norm_is_ten_medians_without_position_0(pairs, backbone):
    norms = torch.cat([states(backbone, p.ids)[1:].norm(dim=-1) for p, _ in pairs])
    found = extract.sink_norm(backbone, [p for p, _ in pairs])
    assert found == pytest.approx(10 * norms.median().item(), rel=1e-5)


def test_features_can_be_restricted_and_all_stored_and_read_back(pairs, backbone, sae, every):
    chosen = np.array([3, 50, 7])
    few = one_hook(pairs, backbone, sae, features=chosen)
    np.testing.assert_allclose(few.dh2, every.dh2[:, chosen])
    np.testing.assert_array_equal(few.features, chosen)
    back = FeatureStats.from_arrays(every.arrays())
    assert back.ids == every.ids
    np.testing.assert_allclose(back.dh2, every.dh2, rtol=1e-6)


def test_differing_query_tokens_are_refused_and_what_is_not_finite_is_named(pairs, backbone, sae):
    with pytest.raises(ValueError, match="query tokens differ"):
        one_hook([(pairs[0][0], pairs[1][1])], backbone, sae)
    of, model = saes.load("random-8x", 64).to(models.device()), models.load_truncated("tiny", 1)
    of.b_enc.data[3] = float("nan")
    model.layers[0].mlp.down_proj.weight.data[0] = float("nan")
    for broken in ((backbone, of), (model, sae)):
        named = f"question {pairs[0][0].example_id}: features are not finite"
        with pytest.raises(ValueError, match=named):
            one_hook(pairs[:1], *broken)
    with pytest.raises(ValueError, match="the model's residual stream is not finite"):
        extract.sink_norm(model, [pairs[0][0]])


def test_out_of_memory_halves_the_batch(pairs, backbone, sae, every, monkeypatch):
    real, sizes = extract.query_residuals, []

    def small_gpu(model, cache, queries, layers):
        sizes.append(len(queries))
        if len(queries) > 1:
            raise torch.cuda.OutOfMemoryError
        return real(model, cache, queries, layers)

    monkeypatch.setattr(extract, "query_residuals", small_gpu)
    stats = one_hook(pairs, backbone, sae)
    assert max(sizes) > 1  # with one thread batches are small
    np.testing.assert_allclose(stats.dh2.sum(0), every.dh2.sum(0), rtol=1e-3, atol=1e-4)


def test_memory_does_not_grow_with_tokens(tokenizer, backbone, sae):
    """Ten times the tokens in as many queries: the process keeps nothing dense."""

    def peak(queries):
        shown = [corpora.load("gsm-symbolic", 1, 1)]
        chosen = prompts.prompt_pairs(tokenizer, queries, shown, 8192)
        before = psutil.Process().memory_info().rss
        stats = one_hook(chosen, backbone, sae, tokens=2048)
        return psutil.Process().memory_info().rss - before, stats.n.sum()

    by_length = sorted(corpora.load("mmlu-test"), key=lambda e: len(e.query))
    peak(by_length[-60:])  # warm: allocator and kernels
    few, n_few = peak(by_length[:60])
    # the allocator may take a pool at any time
    many, n_many = min(peak(by_length[-60:]) for _ in range(3))
    assert n_many > 10 * n_few
    # dense float32 rows of both conditions would be n × (512 + 64) × 4 × 2 bytes
    assert many - few < 0.5 * (n_many - n_few) * 576 * 4 * 2


def test_more_queries_than_rows_are_pooled(pairs, backbone, sae, every, monkeypatch):
    monkeypatch.setattr(extract, "ROWS", 3)
    pooled = one_hook(pairs, backbone, sae)
    assert len(pooled.dh2) == len(pooled.ids) == 3
    np.testing.assert_allclose(pooled.dh2[1], every.dh2[1] + every.dh2[4], rtol=1e-6)
    np.testing.assert_allclose(pooled.mean("dh2"), every.mean("dh2"), rtol=1e-6)


def test_several_hooks_equal_one_at_a_time(pairs, backbone):
    first = models.load_truncated("tiny", 0)
    norms = extract.sink_norm(first, [plain for plain, _ in pairs])
    median = norms / saes.SINK_FACTOR  # a limit that drops many rows
    told = ("random-4x-k16-layer1", 1, np.inf), ("random-8x", 0, np.inf), ("random-4x", 0, median)
    where = models.device()
    hooks = [Hook(at, saes.load(name, 64).to(where), limit) for name, at, limit in told]
    together = feature_stats(pairs, backbone, hooks)
    assert [stats.h.shape[1] for stats in together] == [256, 512, 256]
    for hook, stats in zip(hooks, together, strict=True):
        alone = feature_stats(pairs, first if hook.layer == 0 else backbone, [hook])[0]
        close(stats, alone, 1e-5, 1e-5)
    assert together[2].n.sum() < together[1].n.sum() == together[0].n.sum()


def test_stream_compares_row_i_with_row_i(pairs, backbone, sae):
    generated = {(pairs[0][0].example_id, "plain"): [5, 6, 7]}
    stats = extract.stream_stats(pairs, backbone, Hook(1, sae, np.inf), 150, generated)
    ids = [[list(pair[side].ids) for pair in pairs] for side in (0, 1)]
    ids[0][0] += [5, 6, 7]
    with torch.inference_mode():
        streams = (torch.cat([states(backbone, i) for i in of])[:150] for of in ids)
        a, b = (sae.encode(stream).double() for stream in streams)
    assert stats.n.sum() == 150
    expected = ((a - b) ** 2).sum(0).cpu()
    np.testing.assert_allclose(stats.dh2.sum(0), expected, rtol=1e-4, atol=1e-4)


def test_generation_continues_the_whole_prompt(pairs, whole, tokenizer):
    ids = list(pairs[0][0].ids)
    (found,) = generate.continued(whole, tokenizer, [ids], 1, do_sample=False, max_new_tokens=3)
    for token in found:
        with torch.inference_mode():
            logits = whole(torch.tensor([ids], device=whole.device)).logits
        assert logits[0, -1].argmax().item() == token
        ids.append(token)
