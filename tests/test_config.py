import json
import re

import pytest
import yaml

from sts_utils import check, config, models, saes, store


def written(tmp_path, **changes):
    """A profile file like `tiny` with some keys changed (None: removed)."""
    values = yaml.safe_load((store.ROOT / "profiles/tiny.yaml").read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return str(path)


def test_a_wrong_profile_is_one_line(tmp_path):
    for changes, line in (
        ({"layr": 3}, "profile mine: layr: Extra inputs are not permitted"),
        ({"sft": {"learning_rate": 1}}, r"sft\.learning_rate: Extra inputs"),
        ({"base": "smoll"}, r"unknown profile 'smoll': choose from control, .*paper"),
        ({"base": "paper"}, r"profile 'paper' stands for several: choose one of \['llama3-8b', "),
        ({"evaluation": {"mode": "generation"}}, "mode: generation measures accuracy alone"),
    ):
        with pytest.raises(ValueError, match=line) as caught:
            config.load(written(tmp_path, **changes))
        assert "\n" not in str(caught.value)
    (tmp_path / "torn.yaml").write_text("about: [")
    with pytest.raises(ValueError, match=r"torn.yaml is not YAML: [^\n]*$"):
        config.load(str(tmp_path / "torn.yaml"))


def test_seeds_as_papermill_gives_them():
    """`-p SEEDS 0` is a number, and 0 is not "none said"; others' results lie beside the own."""
    for given, seeds in ((0, "0"), ("0", "0"), ("4, 5", "4-5"), ([0], "0"), ((4, "5"), "4-5")):
        profile = config.load("tiny", given)
        assert profile.seeds == tuple(map(int, seeds.split("-")))
        assert profile.name == f"tiny-seeds-{seeds}"
    assert all(config.load("tiny", own) == config.load("tiny") for own in (None, "", "0,1", [0, 1]))
    for wrong in ("a,b", "-1", 0.5, [], "0,", "0,0"):
        with pytest.raises(ValueError, match=r"tiny: seeds|seeds \(0, 0\) holds one twice"):
            config.load("tiny", wrong)


def test_every_profile_is_valid_and_paper_stands_for_its_three_models():
    stems = {path.stem for path in (store.ROOT / "profiles").glob("*.yaml")}
    assert all(config.load(name).name == name for name in stems - {"paper"})
    assert config.members("tiny") == ["tiny"]
    paper = [config.load(name) for name in config.members("paper")]
    assert [p.name for p in paper] == ["llama3-8b", "qwen2.5-7b", "gemma2-9b"]
    for profile in paper:
        assert (profile.train, profile.grpo.train) == ("limo", "math")
        assert (profile.domains, profile.demonstrations) == ("mmlu-pro", "mmlu-pro-cot")
        sft, e = profile.sft, profile.evaluation
        assert (sft.epochs, sft.batch, sft.max_length, sft.dtype) == (10, 256, 8192, "float32")
        assert (profile.seeds, profile.top_n, profile.definition) == ((0, 1, 2), 100, "paper")
        assert (e.mode, e.measure, e.shots) == ("generation", "accuracy", 5)
        assert (profile.shift.demonstrations, profile.sts.demonstrations) == (2, 5)
        assert len(profile.revision) == 40
    assert [p.layer for p in paper] == [25, 23, 31]  # the paper's second is 25
    four = ("random-8x", "random-4x", "random-4x-layer1", "random-4x-k2")
    assert config.load("tiny").saes == four  # each once


def test_a_profile_says_what_differs_from_its_bases(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nbase: smol-hub\nsft: {lr: 0.5}\nothers: []\nseeds: [7]\n")
    mine, base = config.load(str(path)), config.load("smol-hub")
    assert (mine.name, mine.about, mine.seeds, mine.others) == ("mine", "mine", (7,), ())
    assert mine.sft == base.sft.model_copy(update={"lr": 0.5})
    differ = {"name", "about", "seeds", "sft", "others"}
    assert mine.model_dump(exclude=differ) == base.model_dump(exclude=differ)
    path.write_text("about: mine\nbase: [control, llama3-8b]\n")  # the later lies above
    mine, control, llama = (config.load(n) for n in (str(path), "control", "llama3-8b"))
    assert (mine.others, mine.model, mine.sft) == (llama.others, llama.model, llama.sft)
    assert mine.others_questions == control.others_questions != llama.others_questions


def test_what_does_not_fit_is_said_before_any_model_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("it was loaded"))
    for changes, line in (
        ({"model": "tinny"}, "model 'tinny' is neither packaged"),
        ({"model": "org/absent"}, "huggingface.co"),
        ({"layer": 2}, r"model 'tiny' has blocks 0\.\.1, not 2"),
        ({"sae": "no-such/x"}, "SAE 'no-such/x' is no folder"),
        ({"train": "nothing"}, "unknown corpus 'nothing': choose from"),
        ({"top_n": 9999}, "top_n is 9999, but SAE 'random-8x' has 512 features"),
        ({"sft": {"batch": 10, "micro_batch": 4}}, "sft.batch 10 is not made of whole"),
        ({"sts": {"demonstrations": 6}}, "domain 'abstract algebra' has 5 demonstrations in 'mmlu"),
    ):
        with pytest.raises((ValueError, OSError), match=line):
            check.prepare(config.load(written(tmp_path, **changes)))


def test_the_shipped_sae_is_small_and_refused_at_another_layer_or_width():
    name = config.load("smol").sae
    cfg = json.loads((store.ROOT / name / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["k"], cfg["d_sae"]) == ("topk", 32, 8 * 576)
    assert (store.ROOT / name / "sae_weights.safetensors").stat().st_size <= 12e6
    with pytest.raises(ValueError, match="reads width 576, the model's residual stream is 64"):
        saes.load(name, 64)
    trained = re.escape("trained at blocks.20.hook_resid_post, the profile reads blocks.3.")
    with pytest.raises(ValueError, match=trained):
        saes.load(name, 576, 3)
