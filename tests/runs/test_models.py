import pytest
from safetensors.torch import load_file, save_file

from sts_utils import models as ground
from sts_utils import saes
from sts_utils.runs import engine, models, performance


def test_a_released_gpu_holds_no_model(profile, monkeypatch):
    monkeypatch.setattr(models.torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: False)
    closed = []
    monkeypatch.setattr(engine, "close", lambda: closed.append(True))
    for load in (models.backbone, models.sae):
        load(profile)
    models.release()
    assert (
        models._truncated.cache_info().currsize
        and models._sae_on.cache_info().currsize
        and not closed
    )
    monkeypatch.setattr(models.torch.cuda, "is_available", lambda: True)
    models.release(engines=False)
    assert (
        not models._truncated.cache_info().currsize
        and not models._sae_on.cache_info().currsize
        and not closed
    )
    models.release()
    assert closed


def test_a_checkpoint_without_some_weights_is_one_line(tmp_path):
    """transformers would draw them at random, others at each load."""
    ground.save(ground.load_model("tiny"), ground.load_tokenizer("tiny"), tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    lost = "model.layers.1.mlp.up_proj.weight"
    tensors[f"_orig_mod.{lost}"] = tensors.pop(lost)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"lacks 1 weights, as {lost}: save the model whole"):
        ground.load_model(str(tmp_path))
    ground.load_truncated(str(tmp_path), 0)  # its first block is whole


def test_weights_go_to_the_gpu_without_a_copy_in_main_memory(monkeypatch):
    """Eight processes of 8B float32 weights would hold 256 GB there."""

    def load(_, **told):
        raise KeyError(told["device_map"][""])

    monkeypatch.setattr(ground, "device", lambda: "cuda")
    monkeypatch.setattr(ground.torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(ground.AutoModelForCausalLM, "from_pretrained", load)
    with pytest.raises(KeyError, match=r"^3$"):
        ground.load_model("tiny")


def test_who_wrote_the_answers_is_in_their_key(profile):
    """A run that goes on with vLLM does not compare its answers with transformers' of before."""
    generation = profile.evaluation.model_copy(update={"mode": "generation"})
    engines = ("transformers", "vllm")
    for evaluation, same in ((profile.evaluation, True), (generation, False)):
        of = [{"evaluation": evaluation, "engine": engine} for engine in engines]
        one, two = (performance._recipe(profile.model_copy(update=u), None, []) for u in of)
        assert (one == two) == same


def test_an_sae_of_another_model_stops_before_features_are_read(profile, tmp_path):
    saes.load("random-8x", 64).save_model(tmp_path)
    with pytest.raises(ValueError, match=r"^SAE .* is not of this model: of "):
        models.hook(profile.model_copy(update={"sae": str(tmp_path)}))
