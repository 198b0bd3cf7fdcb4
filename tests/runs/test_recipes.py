"""What a name stands for is in every key: another corpus, SAE or model under it is not taken for
the one before."""

import os

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from sts_utils import corpora, models, saes, store
from sts_utils.runs import features, performance, recipes
from sts_utils.runs import models as held


@pytest.fixture
def limo(tmp_path, monkeypatch):
    """A function that puts so many questions, with this solution, where LIMO is looked for."""
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    file = tmp_path / "GAIR/LIMO/train.parquet"
    file.parent.mkdir(parents=True)

    def write(solution: str) -> None:
        questions = [f"What is {n} + {n}?" for n in range(12)]
        rows = [{"question": q, "solution": solution, "answer": "x"} for q in questions]
        pd.DataFrame(rows).to_parquet(file)
        corpora._read.cache_clear()
        corpora.content.cache_clear()

    yield write
    corpora._read.cache_clear()
    corpora.content.cache_clear()


def test_another_corpus_of_the_same_name_is_another_artifact(profile, limo):
    run, keys = profile.model_copy(update={"train": "limo", "demonstrations": "limo"}), []
    generation = run.evaluation.model_copy(update={"mode": "generation"})
    written = run.model_copy(update={"evaluation": generation})
    for solution in ("At first.", "At first.", "Then another."):
        limo(solution)
        of = [features.settings_of(run, "train"), features._rollout_recipe(run, 0)]
        of += [features.settings_of(run, "demonstrations"), performance._recipe(written, None, [])]
        keys.append([*(store.path("a", recipe).name for recipe in of), held.finetune(run, 0).key])
    first, again, other = keys
    assert first == again and not set(first) & set(other)


def test_an_sae_or_a_model_that_was_trained_again_is_another_artifact(profile, tmp_path):
    model, sae = tmp_path / "model", tmp_path / "sae"
    models.save(models.load_model("tiny"), models.load_tokenizer("tiny"), model)
    saes.load("random-8x", 64).save_model(sae)
    run = profile.model_copy(update={"model": str(model), "sae": str(sae)})
    whole, weights = features.settings_of(run), sae / "sae_weights.safetensors"
    os.utime(weights)  # a copy, or a checkout on another machine of a cluster
    assert features.settings_of(run) == whole
    tensors = load_file(weights)
    save_file(tensors | {"b_dec": tensors["b_dec"] + 1}, weights)
    assert features.settings_of(run) != whole
    before = held.finetune(run, 0).key, performance._recipe(run, None, [])
    (model / "generation_config.json").write_text("{}")
    assert (held.finetune(run, 0).key, performance._recipe(run, None, [])) != before


def test_what_is_packaged_or_on_the_hub_is_known_by_its_version():
    known = recipes.model_content(models.SMOL), recipes.sae_content("random-8x")
    assert known == (None, None)
    assert recipes.model_content("org/name") is None


def test_of_gigabytes_pieces_are_read(tmp_path, monkeypatch):
    """A changed tenth of a file is seen, wherever it lies."""
    monkeypatch.setattr(store, "PIECE", 64)
    monkeypatch.setattr(store, "SAMPLES", 16)
    seen = set()
    for start in (None, 0, 33_333, 70_000, 90_000):
        weights = torch.zeros(100_000)
        if start is not None:
            weights[start : start + 10_000] = 1
        save_file({"all": weights}, tmp_path / "model.safetensors")
        seen.add(store.content(tmp_path, models.FILES))
    assert len(seen) == 5
