import itertools

import pytest
import torch

from sts_utils import corpora, sae_training, saes
from sts_utils.store import DATA

FOLDERS = [f"data/saes/{path.parent.name}/{path.name}" for path in (DATA / "saes").glob("*/*")]


def test_rows_for_saes_are_the_streams_after_each_block(backbone):
    sequences = [list(range(10, 10 + n)) for n in (5, 9, 14, 7)]
    chunks = sae_training.collected(backbone, sequences, (0, 1), 10_000, 30)
    read = [torch.tensor([sequence], device=backbone.device) for sequence in sequences]
    with torch.inference_mode():
        hidden = [backbone(ids, output_hidden_states=True).hidden_states for ids in read]
    for layer in (0, 1):
        expected = torch.cat([h[layer + 1][0, 1:] for h in hidden]).sort(0).values
        rows = torch.cat(chunks[layer]).float().sort(0).values.to(backbone.device)
        torch.testing.assert_close(rows, expected, rtol=1e-2, atol=1e-2)
    few = sae_training.collected(backbone, sequences, (1,), 4, 14)
    assert 4 <= sum(map(len, few[1])) < 31


def test_every_round_replays_each_chunk_once():
    chunks = [torch.full((2, 3), float(i), dtype=torch.bfloat16) for i in range(6)]
    seen = [chunk[0, 0].item() for chunk in itertools.islice(sae_training.replayed(chunks), 18)]
    assert seen[:6] == list(range(6)) == sorted(seen[6:12]) == sorted(seen[12:]) != seen[6:12]


def test_a_trained_sae_is_saved(backbone, tokenizer, tmp_path):
    sequences = tokenizer([e.query for e in corpora.load("gsm-symbolic", 0, 20)]).input_ids
    rows = sae_training.collected(backbone, sequences, (0,), 1000, 512)[0]
    shape, metadata = {"d_in": 64, "d_sae": 128, "k": 4}, {"hook_name": saes.hook_point(0)}
    trained = sae_training.train(sae_training.replayed(rows), shape, 40_000, metadata, 256)
    sae_training.save(trained, tmp_path / "sae")
    sae = saes.load(str(tmp_path / "sae"), 64, 0).to(backbone.device)
    assert saes.layer(str(tmp_path / "sae")) == 0
    assert saes.quality(sae, [chunk.float().to(backbone.device) for chunk in rows])["fvu"] < 0.9


@pytest.mark.parametrize("folder", FOLDERS)
def test_shipped_saes_are_sound(folder):
    sae = saes.load(folder, 576, saes.layer(folder))
    assert torch.isfinite(sae.W_enc).all() and torch.isfinite(sae.W_dec).all()
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(sae.cfg.d_sae), rtol=0.02, atol=0)
