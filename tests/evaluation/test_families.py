"""Each family's smallest random model, beyond its window, against plain forward passes."""

import json

import numpy as np
import pytest
import torch
import transformers
from test_options import option_logliks

from sts_utils import evaluate, features, generate, models, train
from sts_utils.prompts import Example

SIZE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4)
SIZE |= dict(num_key_value_heads=2, vocab_size=49_152, head_dim=16, pad_token_id=0)
FAMILIES = {
    "Llama": {},
    "Mistral": {"sliding_window": 48},
    "Qwen2": {},
    "Qwen3": {"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1},
    "Gemma2": {"sliding_window": 48},
    "Gemma3Text": {"sliding_window": 48, "sliding_window_pattern": 2},
    "Phi3": {"sliding_window": 48, "original_max_position_embeddings": 4096},
    "Granite": {"logits_scaling": 8.0},
    "Cohere": {"logit_scale": 0.25},
    "Cohere2": {"logit_scale": 0.25, "sliding_window": 48},
    "Olmo2": {},
    "SmolLM3": {},
    "StableLm": {},
}
TEXT = "A list of many words that says little: " + " ".join(f"item {i}," for i in range(30))
ASKED = [
    Example(f"{TEXT} {q}", "It is one of these.", "two", "any", str(q), options=("one", "two"))
    for q in ("which?", "which of them is the longest of all?", "or none?")
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tokenizer, tmp_path_factory):
    """(folder, whole model), saved and loaded as a user's."""
    config = getattr(transformers, f"{request.param}Config")(**SIZE | FAMILIES[request.param])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():  # far from uniform, so that masks and scales show
        if weight.ndim > 1:
            weight.data.normal_(std=0.2)
    folder = tmp_path_factory.mktemp(request.param)
    models.save(model, tokenizer, folder)
    return folder, models.load_model(str(folder))


def test_options_are_those_of_a_plain_pass(family, tokenizer):
    table = evaluate.option_likelihoods(family[1], tokenizer, ASKED).set_index("id")
    for e in ASKED:
        loglik, _ = option_logliks(family[1], tokenizer, e)
        assert table.gold_log_odds[e.id] == pytest.approx(loglik[1] - loglik[0], abs=2e-3)


def test_the_loss_is_the_model_s_own(family, tokenizer):
    batch = generate.collate(generate.tokenize(tokenizer, ASKED, 1024))
    with torch.no_grad():
        loss, tokens = train.answers_loss(family[1], **batch)
        own = [family[1](**{k: v[i : i + 1] for k, v in batch.items()}).loss for i in range(3)]
        counts = (batch["labels"] != -100).sum(1)
    mean = torch.stack(own) @ counts.float() / tokens
    assert (loss / tokens).item() == pytest.approx(mean.item(), rel=1e-3)


def test_residual_rows_are_those_of_a_plain_pass(family, tokenizer):
    backbone = models.load_truncated(str(family[0]), 1)
    ids = [tokenizer(e.question).input_ids for e in ASKED]
    context, queries = ids[0][:100], [row[100:] for row in ids]
    cache = models.context_cache(backbone, context)
    rows = features.query_residuals(backbone, cache, queries, [1])[1].split(list(map(len, queries)))
    for query, found in zip(queries, rows, strict=True):
        whole = torch.tensor([context + query])
        plain = family[1](input_ids=whole, output_hidden_states=True).hidden_states[2][0, 100:]
        np.testing.assert_allclose(found.detach(), plain.detach(), rtol=1e-3, atol=1e-3)


def test_what_can_t_be_read_is_refused_by_name(tokenizer, tmp_path):
    gpt2 = transformers.GPT2Config(n_embd=64, n_head=4, n_layer=1)
    jamba = transformers.JambaConfig(**SIZE | {"num_hidden_layers": 2, "use_mamba_kernels": False})
    quantized = transformers.LlamaConfig(**SIZE, quantization_config={"quant_method": "gptq"})
    for name, config, said in (
        ("old", gpt2.to_dict(), "which has not model"),
        ("older", transformers.GPTNeoXConfig(**SIZE).to_dict(), "which has not model"),
        ("hybrid", jamba.to_dict(), "which has not"),
        ("quantized", quantized.to_dict(), "is quantized"),
        ("unknown", {"model_type": "new"}, "model type `new`"),
        ("code", {"model_type": "new", "auto_map": {"AutoConfig": "a.B"}}, "custom code"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config, default=str))
        with pytest.raises(ValueError, match=said) as error:
            models.check(str(tmp_path / name), 0)
        assert "\n" not in str(error.value)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="is an adapter: merge it"):
        models.check(str(tmp_path / "adapter"), 0)


def test_a_blank_option_changes_no_other_question(whole, tokenizer):
    blank = Example("Which mark?", "", "#", "any", "b", options=(" ", ",", "", "#"))
    alone = evaluate.option_likelihoods(whole, tokenizer, ASKED).set_index("id")
    beside = evaluate.option_likelihoods(whole, tokenizer, [*ASKED, blank]).set_index("id")
    assert len(beside) == 4
    np.testing.assert_allclose(beside.gold_log_odds[alone.index], alone.gold_log_odds, atol=1e-3)
    assert np.isfinite(beside.gold_loglik).all()
