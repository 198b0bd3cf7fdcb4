import numpy as np

from sts_utils import features as extract
from sts_utils import store
from sts_utils.runs import features, models
from sts_utils.runs.run import Run


def test_a_profile_can_select_the_released_code_s_readings(profile):
    released = profile.model_copy(update={"alignment": "stream", "definition": "released_code"})
    stats = features.extract_train(released, 0)
    assert stats.n.sum() == profile.shift.stream_rows
    expected = np.argsort(-stats.dh2.sum(0), kind="stable")[: profile.top_n]
    np.testing.assert_array_equal(Run(released).dims[0].ids, expected)
    assert set(Run(released).dims[0].ids) != set(Run(profile).dims[0].ids)


def test_one_forward_pass_stores_every_sae_and_damage_is_mended(profile, random_stats, monkeypatch):
    """What is missing is computed together and read afterwards, a damaged file computed again."""
    calls = []

    def extracted(pairs, model, hooks, **_):
        calls.append([hook.layer for hook in hooks])
        return [random_stats(7 + i) for i in range(len(hooks))]

    monkeypatch.setattr(extract, "feature_stats", extracted)
    other = models.with_sae(profile, "random-4x-layer1")
    assert (other.layer, other.sae) == (1, "random-4x-layer1")

    def of(*profiles):
        return features.extract("test", profiles, lambda p: {"sae": p.sae}, lambda: [], "test")

    np.testing.assert_allclose(of(profile, other).h, random_stats(7).h, rtol=1e-6)
    np.testing.assert_allclose(of(other).h, random_stats(8).h, rtol=1e-6)
    assert calls == [[0, 1]]
    file = store.path("test", {"sae": other.sae}) / "arrays.safetensors"
    for _ in range(2):
        file.write_bytes(b"damaged")
        np.testing.assert_allclose(of(other).h, random_stats(7).h, rtol=1e-6)
    assert calls == [[0, 1], [1], [1]]


def test_rollouts_are_named_by_the_model_s_revision(profile):
    other = profile.model_copy(update={"revision": "a" * 40})
    assert features._rollout_recipe(profile, 0) != features._rollout_recipe(other, 0)


def test_sinks_are_the_same_for_every_training_set(profile):
    """What is stored of a domain serves them all."""
    other = profile.model_copy(update={"train": "code-io"})
    assert models.sink_norm(profile) == models.sink_norm(other)
