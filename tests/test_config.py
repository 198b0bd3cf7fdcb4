import json

import pytest
import yaml

from sts_utils import config, models, saes, store
from sts_utils.runs import check


def written(tmp_path, **changes):
    """A profile file like `tiny` with some keys changed (None: removed)."""
    values = yaml.safe_load((store.ROOT / "profiles/tiny.yaml").read_text()) | changes
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    return str(path)


def test_every_profile_is_valid():
    assert {"tiny", "smol", "smol-hub"} <= set(config.names())
    for name in config.names():
        assert config.load(name).name == name


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layr": 3}, r"unknown key 'layr' \(did you mean 'layer'\?\)"),
        ({"sft": {"learning_rate": 1}}, r"unknown key 'sft.learning_rate'"),
        ({"sts": {"demos": 1}}, r"unknown key 'sts.demos' \(did you mean 'demonstrations'\?\)"),
        (
            {"also": {"domains": "a", "demonstrations": "b", "domain": 1}},
            r"'also.domain' \(did you mean 'domains'\?\)",
        ),
        (
            {"control": {"parts": [{"name": "", "domains": "", "demonstrations": "", "sed": 1}]}},
            r"unknown key 'control.parts.0.sed' \(did you mean 'seeds'\?\)",
        ),
        ({"seeds": []}, r"seeds: tuple should have at least 1 item"),
        ({"layer": "three"}, r"layer: input should be a valid integer.*\(it is 'three'\)"),
        (
            {"definition": "mine"},
            r"definition: input should be 'paper' or 'released_code' \(it is 'mine'\)",
        ),
        ({"model": None}, r"model: field required"),
        ({"top_n": 0}, r"top_n: input should be greater than 0"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(tmp_path, changes, line):
    with pytest.raises(ValueError, match=line) as caught:
        config.load(written(tmp_path, **changes))
    assert "\n" not in str(caught.value)


def test_unknown_profile_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"unknown profile 'smoll' \(did you mean 'smol'\?\): choose from"
    ):
        config.load("smoll")


def test_paper_stands_for_its_three_models():
    three = ["llama3-8b", "qwen2.5-7b", "gemma2-9b"]
    assert [p.name for p in config.load_all("paper")] == three
    # the results of other seeds lie beside the profile's own
    assert [p.name for p in config.load_all("paper", "5")] == [f"{n}-seeds-5" for n in three]
    assert config.load("smol", "0,1,2") == config.load("smol")
    assert {p.seeds for p in config.load_all("paper", "5")} == {(5,)}
    assert {p.seeds for p in config.load_all("paper")} == {(0, 1, 2)}
    assert config.load_all("tiny") == [config.load("tiny")]
    assert "paper" in config.groups() and "paper" not in config.names()
    with pytest.raises(ValueError, match="profile 'paper' stands for several"):
        config.load("paper")
    with pytest.raises(ValueError, match=r"unknown profile 'papr' \(did you mean 'paper'\?\)"):
        config.load_all("papr")


def test_paper_profiles_hold_the_paper_s_protocol():
    for profile in config.load_all("paper"):
        assert (profile.train, profile.grpo.train) == ("limo", "math")
        assert (profile.domains, profile.demonstrations) == ("mmlu-pro", "mmlu-pro-cot")
        assert profile.others == ("verifiable-coding", "mens-mental-health")
        sft, evaluation = profile.sft, profile.evaluation
        assert (sft.epochs, sft.batch, sft.micro_batch, sft.max_length) == (10, 256, 1, 8192)
        assert sft.dtype == "float32" and sft.gradient_checkpointing
        assert profile.top_n == 100 and profile.definition == "paper"
        assert (evaluation.mode, evaluation.measure) == ("generation", "accuracy")
        assert (evaluation.shots, evaluation.rule) == (5, "official")
        assert (profile.shift.demonstrations, profile.sts.demonstrations) == (2, 5)
        assert profile.revision and len(profile.revision) == 40
    assert [p.layer for p in config.load_all("paper")] == [25, 23, 31]  # the paper's second is 25


def test_a_profile_says_what_differs_from_its_base(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nbase: smol-hub\nsft: {lr: 0.5}\nothers: []\nseeds: [7]\n")
    mine, base = config.load(str(path)), config.load("smol-hub")
    assert mine.name == "mine" and mine.about == "mine" and mine.seeds == (7,)
    assert mine.sft == base.sft.model_copy(update={"lr": 0.5}) and mine.others == ()
    differ = {"name", "about", "seeds", "sft", "others"}
    assert mine.model_dump(exclude=differ) == base.model_dump(exclude=differ)
    smol = config.load("smol")
    assert (base.sft, base.sweep, base.train) == (smol.sft, smol.sweep, "gsm8k")


def test_of_two_bases_the_later_lies_above(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("about: mine\nbase: [control, llama3-8b]\nstages: [16_control]\n")
    mine, control, llama = (config.load(n) for n in (str(path), "control", "llama3-8b"))
    assert mine.control == control.control and mine.model == llama.model and mine.sft == llama.sft
    assert mine.about == "mine" and mine.stages == control.stages


@pytest.mark.parametrize(
    ("base", "line"),
    [
        ("smoll", r"has an unknown base 'smoll' \(did you mean 'smol'\?\): choose from control, "),
        ("paper", r"profile 'paper' stands for several: choose one of \('llama3-8b', "),
        ("{0}/mine.yaml", "mine.yaml' is its own base: .*mine.yaml -> .*mine.yaml"),
        ("{0}/other.yaml", "is its own base: .*mine.yaml -> .*other.yaml -> .*mine.yaml"),
    ],
)
def test_a_wrong_base_is_one_line(tmp_path, base, line):
    (tmp_path / "mine.yaml").write_text(f"about: x\nbase: {base.format(tmp_path)}\n")
    (tmp_path / "other.yaml").write_text(f"about: x\nbase: {tmp_path}/mine.yaml\n")
    with pytest.raises(ValueError, match=line) as caught:
        config.load(str(tmp_path / "mine.yaml"))
    assert "\n" not in str(caught.value)


def test_generation_measures_accuracy_alone(tmp_path):
    with pytest.raises(ValueError, match="mode: generation measures accuracy alone"):
        config.load(written(tmp_path, evaluation={"mode": "generation"}))


def test_seeds():
    assert config.load("tiny", "4,5").seeds == (4, 5)
    with pytest.raises(ValueError, match="SEEDS='a,b': give whole numbers"):
        config.load("tiny", "a,b")


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model": "tinny"}, "model 'tinny' is neither packaged"),
        ({"model": "org/absent"}, "model 'org/absent' can't be fetched from the hub; put it in"),
        ({"layer": 2}, r"model 'tiny' has blocks 0\.\.1, not 2"),
        (
            {"sae": "data/saes/smollm2-135m-instruct/layer20-8x-k32"},
            "reads width 576, the model's residual stream is 64",
        ),
        (
            {"sae": "no-such-release/x"},
            "SAE 'no-such-release/x' is no folder and sae-lens can't load it",
        ),
        ({"top_n": 9999}, "top_n is 9999, but SAE 'random-8x' has 512 features"),
        ({"seeds": [0, 1, 0]}, r"seeds \(0, 1, 0\) holds one twice: give each once"),
        ({"sft": {"batch": 10, "micro_batch": 4}}, "sft.batch is 10, sft.micro_batch 4: a batch"),
        ({"train": "gsm"}, "unknown corpus 'gsm'"),
        ({"sts": {"demonstrations": 6}}, "domain 'engineering' has 5 demonstrations in 'mmlu-cot'"),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_model_is_loaded(
    tmp_path, monkeypatch, changes, line
):
    monkeypatch.setattr(
        models, "_from_pretrained", lambda *_, **__: pytest.fail("a model was loaded")
    )
    with pytest.raises(ValueError, match=line) as caught:
        check.prepare(config.load(written(tmp_path, **changes)))
    assert "\n" not in str(caught.value)


def test_sae_of_another_layer_is_refused():
    line = r"trained at blocks\.20\.hook_resid_post, the profile reads blocks\.3\."
    with pytest.raises(ValueError, match=line):
        saes.load(config.load("smol").sae, 576, 3)


def test_shipped_sae_is_sae_lens_s_own_format_and_small():
    folder = store.ROOT / config.load("smol").sae
    cfg = json.loads((folder / "cfg.json").read_text())
    assert (cfg["architecture"], cfg["k"], cfg["d_sae"]) == ("topk", 32, 8 * 576)
    assert (folder / "sae_weights.safetensors").stat().st_size <= 12e6
