import time
from threading import Thread

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from sts_utils import corpora, generate, grpo, models
from sts_utils.config import GrpoSettings


def train(out, seed=0, checkpointing=False, **changes):
    """Two steps of the tiny model: the log, and the weights."""
    settings = dict(steps=2, prompts=2, generations=4, completion_tokens=8, lr=1e-3)
    settings = GrpoSettings(**settings | {"dtype": "float32"} | changes)
    examples = corpora.load("gsm-symbolic", 0, 5)
    log = grpo.grpo("tiny", None, settings, examples, seed, out, checkpointing)
    return log, load_file(out / "model.safetensors")


@pytest.fixture
def base():
    return models.load_model("tiny").cpu().state_dict()


def parity(text, answer):
    """A reward that random text earns about every other time."""
    return float(sum(map(ord, text)) % 2)


@pytest.mark.parametrize(
    "completion, answer, expected",
    [
        ("so it is \\boxed{72}.", "72", 1),
        ("\\boxed{70}. That was wrong, it is \\boxed{72}.", "72", 1),
        ("\\boxed{72} is left after 3 days", "72", 1),
        ("it was 72, so \\boxed{7", "72", 0),
        ("The answer is 72.", "72", 1),
        ("I counted 72 apples, then 71.", "72", 0),
        ("\\boxed{0.5}", "\\frac{1}{2}", 1),
        ("\\boxed{1234}", "1,234", 1),
        ("\\boxed{\\$18}", "18", 1),
        ("\\boxed{18\\text{ days}}", "18", 1),
        ("\\boxed{72, 73}", "72", 0),
        ("\\frac{" * 2000, "72", 0),
        ("\x00\ud800 $$ \\boxed{nan} 1/0", "72", 0),
        ("\\boxed{72}", "{not latex", 0),
    ],
)
def test_reward_is_the_correctness_of_the_final_answer(completion, answer, expected):
    assert grpo.reward(completion, answer) == expected


def test_reward_does_not_hang_and_works_off_the_main_thread(monkeypatch):
    monkeypatch.setattr(grpo, "SECONDS", 1)
    start, found = time.monotonic(), []
    assert grpo.reward("\\boxed{9^{9^{9}}}", "72") == 0.0
    assert grpo.reward("\\boxed{\\binom{1000000000}{500000000}}", "72") == 0.0
    assert time.monotonic() - start < 10
    thread = Thread(target=lambda: found.append(grpo.reward("\\boxed{72}", "72")))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_training_twice_gives_the_same_bits(base, monkeypatch, tmp_path):
    golds = []
    rewards = lambda text, gold: golds.append(gold) or parity(text, gold)  # noqa: E731
    monkeypatch.setattr(grpo, "reward", rewards)
    (log, one), (again, other) = (train(tmp_path / name, seed=3) for name in "ab")
    assert len(golds) == 2 * (2 * 2 * 4)  # steps x prompts x generations
    assert all(len(set(golds[i : i + 4])) == 1 for i in range(0, len(golds), 4))
    pd.testing.assert_frame_equal(log, again)
    assert list(log.columns) == ["step", "reward", "reward_sd", "length", "seed"]
    assert log.step.tolist() == [1, 2] and (log.seed == 3).all()
    assert (log.reward_sd > 0).all() and (log.length <= 8).all()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not any(torch.equal(one[key], base[key]) for key in one)
    with pytest.raises(ValueError, match="6 questions a step asked for, 5 at hand"):
        train(tmp_path, prompts=6)


def test_bfloat16_sampled_in_parts_with_activations_recomputed(base, monkeypatch, tmp_path):
    monkeypatch.setattr(grpo, "TOGETHER", 1)
    monkeypatch.setattr(grpo, "reward", parity)
    log, weights = train(tmp_path, checkpointing=True, dtype="bfloat16")
    assert log.step.tolist() == [1, 2] and log.reward_sd.notna().all()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    matrices = {key: weight for key, weight in weights.items() if weight.ndim > 1}
    assert not any(torch.equal(weight, base[key].bfloat16()) for key, weight in matrices.items())


def test_accuracy_is_the_reward_of_greedy_text(whole, tokenizer, monkeypatch):
    seen, examples = [], corpora.load("gsm-symbolic", 0, 5)
    monkeypatch.setattr(grpo, "reward", lambda text, answer: seen.append(text) or 1.0)
    table = grpo.accuracy(whole, tokenizer, examples, 4)
    assert table.id.tolist() == [e.id for e in examples] and (table.accuracy == 1.0).all()
    asked = [e.query for e in examples]
    assert seen == generate.completions(whole, tokenizer, asked, 4)
