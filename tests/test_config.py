import json

import pytest
import yaml

from sts_utils import check, config, models, saes, store


def written(tmp_path, **changes):
    """A profile file like `tiny` with some keys changed (None: removed)."""
    values = yaml.safe_load((store.ROOT / "profiles/tiny.yaml").read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layr": 3}, "profile mine: layr: Extra inputs are not permitted"),
        ({"sft": {"learning_rate": 1}}, r"sft\.learning_rate: Extra inputs"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"layer": "three"}, "layer: Input should be a valid integer.*input_value='three'"),
        ({"definition": "mine"}, "definition: Input should be 'paper' or 'released_code'"),
        ({"model": None}, "model: Field required"),
        ({"top_n": 0}, "top_n: Input should be greater than 0"),
        ({"evaluation": {"mode": "generation"}}, "mode: generation measures accuracy alone"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(tmp_path, changes, line):
    with pytest.raises(ValueError, match=line) as caught:
        config.load(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("smoll", r"unknown profile 'smoll': choose from control, .*paper"),
        ("paper", r"profile 'paper' stands for several: choose one of \['llama3-8b', "),
        ("{0}/mine.yaml", "mine.yaml' is its own base: .*mine.yaml -> .*mine.yaml"),
        ("{0}/other.yaml", "is its own base: .*mine.yaml -> .*other.yaml -> .*mine.yaml"),
        ("{0}/torn.yaml", "torn.yaml is not YAML"),
        ("{0}/words.yaml", "words.yaml is not a list of `key: value` lines"),
    ],
)
def test_a_wrong_base_is_one_line(tmp_path, base, line):
    (tmp_path / "mine.yaml").write_text(f"about: x\nbase: {base.format(tmp_path)}\n")
    (tmp_path / "other.yaml").write_text(f"about: x\nbase: {tmp_path}/mine.yaml\n")
    (tmp_path / "torn.yaml").write_text("about: [")
    (tmp_path / "words.yaml").write_text("about")
    with pytest.raises(ValueError, match=line) as caught:
        config.load(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "seeds"),
    [(0, (0,)), (1, (1,)), ("0", (0,)), ("4, 5", (4, 5)), ([0], (0,)), ((4, "5"), (4, 5))],
)
def test_seeds_as_papermill_gives_them(given, seeds):
    """`-p SEEDS 0` is a number, and 0 is not "none said"; others' results lie beside the own."""
    profile = config.load("tiny", given)
    assert (profile.seeds, profile.name) == (seeds, f"tiny-seeds-{'-'.join(map(str, seeds))}")


@pytest.mark.parametrize("given", [None, "", "0,1", [0, 1]])
def test_a_profile_s_own_seeds(given):
    assert config.load("tiny", given) == config.load("tiny")


@pytest.mark.parametrize("given", ["a,b", "-1", 0.5, [], "0,"])
def test_wrong_seeds(given):
    with pytest.raises(ValueError, match="profile tiny: seeds"):
        config.load("tiny", given)


def test_every_profile_is_valid_and_paper_stands_for_its_three_models():
    names = config.names()
    assert {"tiny", "smol", "smol-hub"} <= {*names} and "paper" not in names
    assert [config.load(name).name for name in names] == names
    assert config.members("paper") == ["llama3-8b", "qwen2.5-7b", "gemma2-9b"]
    assert config.members("tiny") == ["tiny"]
    paper = [config.load(name) for name in config.members("paper")]
    for profile in paper:
        assert (profile.train, profile.grpo.train) == ("limo", "math")
        assert (profile.domains, profile.demonstrations) == ("mmlu-pro", "mmlu-pro-cot")
        assert profile.others == ("verifiable-coding", "mens-mental-health")
        sft, evaluation = profile.sft, profile.evaluation
        assert (sft.epochs, sft.batch, sft.micro_batch, sft.max_length) == (10, 256, 1, 8192)
        assert sft.dtype == "float32" and sft.gradient_checkpointing
        assert (profile.seeds, profile.top_n, profile.definition) == ((0, 1, 2), 100, "paper")
        assert (evaluation.mode, evaluation.measure) == ("generation", "accuracy")
        assert (evaluation.shots, evaluation.rule) == (5, "official")
        assert (profile.shift.demonstrations, profile.sts.demonstrations) == (2, 5)
        assert profile.revision and len(profile.revision) == 40
    assert [p.layer for p in paper] == [25, 23, 31]  # the paper's second is 25


def test_a_profile_says_what_differs_from_its_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nbase: smol-hub\nsft: {lr: 0.5}\nothers: []\nseeds: [7]\n")
    mine, base = config.load(str(path)), config.load("smol-hub")
    assert mine.name == "mine" and mine.about == "mine" and mine.seeds == (7,)
    assert mine.sft == base.sft.model_copy(update={"lr": 0.5}) and mine.others == ()
    differ = {"name", "about", "seeds", "sft", "others"}
    assert mine.model_dump(exclude=differ) == base.model_dump(exclude=differ)
    assert (base.sft, base.train) == (config.load("smol").sft, "gsm8k")


def test_of_two_bases_the_later_lies_above(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nbase: [control, llama3-8b]\nstages: [16_control]\n")
    mine, control, llama = (config.load(n) for n in (str(path), "control", "llama3-8b"))
    assert mine.control == control.control and mine.model == llama.model and mine.sft == llama.sft
    assert mine.about == "mine" and mine.stages == control.stages


def test_the_saes_of_a_run_are_named_once():
    four = ("random-8x", "random-4x", "random-4x-layer1", "random-4x-k2")
    assert config.load("tiny").saes == four
    llama = config.load("llama3-8b")
    assert llama.saes == (llama.sae,)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": "tinny"}, "model 'tinny' is neither packaged"),
        ({"model": "org/absent"}, "model 'org/absent' can't be loaded: .*huggingface.co"),
        ({"layer": 2}, r"model 'tiny' has blocks 0\.\.1, not 2"),
        (
            {"sae": "data/saes/smollm2-135m-instruct/layer20-8x-k32"},
            r"model 'tiny' has blocks 0\.\.1, not 20",
        ),
        (
            {"sae": "no-such-release/x"},
            "SAE 'no-such-release/x' is no folder and sae-lens can't load it",
        ),
        ({"top_n": 9999}, "top_n is 9999, but SAE 'random-8x' has 512 features"),
        ({"seeds": [0, 1, 0]}, r"seeds \(0, 1, 0\) holds one twice: give each once"),
        ({"sft": {"batch": 10, "micro_batch": 4}}, "sft.batch 10 is not made of whole"),
        ({"train": "gsm"}, "unknown corpus 'gsm'"),
        ({"sts": {"demonstrations": 6}}, "domain 'engineering' has 5 demonstrations in 'mmlu-cot'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_model_is_loaded(
    tmp_path, monkeypatch, changes, line
):
    monkeypatch.setattr(models, "_from_pretrained", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(ValueError, match=line) as caught:
        check.prepare(config.load(written(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


def test_sae_of_another_layer_or_width_is_refused():
    with pytest.raises(ValueError, match="reads width 576, the model's residual stream is 64"):
        saes.load(config.load("smol").sae, 64)
    with pytest.raises(
        ValueError, match=r"trained at blocks\.20\.hook_resid_post, the profile reads blocks\.3\."
    ):
        saes.load(config.load("smol").sae, 576, 3)


def test_shipped_sae_is_sae_lens_s_own_format_and_small():
    folder = store.ROOT / config.load("smol").sae
    cfg = json.loads((folder / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["k"], cfg["d_sae"]) == ("topk", 32, 8 * 576)
    assert (folder / "sae_weights.safetensors").stat().st_size <= 12e6
