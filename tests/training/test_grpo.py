import time
from threading import Thread
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer

from sts_utils import corpora, grpo, models
from sts_utils import train as training
from sts_utils.config import GrpoSettings


@pytest.fixture(scope="module")
def examples():
    return corpora.load("gsm-symbolic", 0, 5)


def train(examples, seed, out, checkpointing=False, **changes):
    """Two steps of the tiny model."""
    settings = dict(steps=2, prompts=2, generations=4, completion_tokens=8, lr=1e-3)
    settings = GrpoSettings(**settings | {"dtype": "float32"} | changes)
    return grpo.grpo("tiny", None, settings, examples, seed, out, checkpointing)


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture
def base():
    return models.load_model("tiny").cpu().state_dict()


@pytest.fixture
def varied(monkeypatch):
    """Rewards that random text earns about every other time."""
    monkeypatch.setattr(grpo, "reward", lambda text, answer: float(sum(map(ord, text)) % 2))


@pytest.mark.parametrize(
    "completion, answer, expected",
    [
        ("so it is \\boxed{72}.", "72", 1),
        ("so it is \\boxed{71}.", "72", 0),
        ("\\boxed{70}. That was wrong, it is \\boxed{72}.", "72", 1),
        ("\\boxed{72}. No, \\boxed{70}.", "72", 0),
        ("\\boxed{72} is left after 3 days", "72", 1),
        ("it was 72, so \\boxed{7", "72", 0),
        ("The answer is 72.", "72", 1),
        ("I counted 72 apples, then 71.", "72", 0),
        ("\\boxed{0.5}", "\\frac{1}{2}", 1),
        ("\\boxed{0.51}", "\\frac{1}{2}", 0),
        ("\\boxed{1234}", "1,234", 1),
        ("\\boxed{\\$18}", "18", 1),
        ("\\boxed{18\\text{ days}}", "18", 1),
        ("\\boxed{72, 73}", "72", 0),
        ("", "72", 0),
        ("", "", 0),
        ("\\frac{" * 2000, "72", 0),
        ("\x00\ud800 $$ \\boxed{nan} 1/0", "72", 0),
        ("\\boxed{72}", "{not latex", 0),
    ],
)
def test_reward_is_the_correctness_of_the_final_answer(completion, answer, expected):
    assert grpo.reward(completion, answer) == expected


def test_reward_does_not_hang(monkeypatch):
    monkeypatch.setattr(grpo, "SECONDS", 1)
    start = time.monotonic()
    assert grpo.reward("\\boxed{9^{9^{9}}}", "72") == 0.0
    assert grpo.reward("\\boxed{\\binom{1000000000}{500000000}}", "72") == 0.0
    assert time.monotonic() - start < 10


def test_reward_works_off_the_main_thread():
    found = []
    thread = Thread(target=lambda: found.append(grpo.reward("\\boxed{72}", "72")))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_log_probabilities_are_those_of_the_whole_pass(whole):
    torch.manual_seed(0)
    ids, mask = torch.randint(3, 1000, (3, 12)), torch.ones(3, 12, dtype=torch.long)
    ids, mask = ids.to(models.device()), mask.to(models.device())
    mask[0, :3], mask[1, -2:] = 0, 0
    method, stub = grpo.AnswerGRPO._get_per_token_logps_and_entropies, SimpleNamespace()
    stub.temperature = 0.7
    with torch.no_grad():
        logps, *_ = method(stub, whole, ids, mask, 5, 2)
        full = (whole(input_ids=ids, attention_mask=mask).logits[:, :-1] / 0.7).log_softmax(-1)
    expected = full.gather(2, ids[:, 1:, None])[:, -5:, 0] * mask[:, -5:]
    torch.testing.assert_close(logps, expected, rtol=1e-4, atol=1e-5)


def test_the_update_is_trls_own(examples, varied, base, monkeypatch, tmp_path):
    """Also where two questions' groups earned equal rewards, which we leave out of the pass."""
    parity, equal = grpo.reward, {e.answer for e in examples[:2]}
    rewards = lambda text, gold: 0.0 if gold in equal else parity(text, gold)  # noqa: E731
    monkeypatch.setattr(grpo, "reward", rewards)
    sgd = lambda model, lr: torch.optim.SGD(model.parameters(), 100.0)  # noqa: E731
    monkeypatch.setattr(training, "master_adamw", sgd)
    logs = [train(examples, 0, tmp_path / "ours", steps=1, prompts=5)]
    monkeypatch.setattr(grpo, "AnswerGRPO", GRPOTrainer)
    logs.append(train(examples, 0, tmp_path / "trl", steps=1, prompts=5))
    pd.testing.assert_frame_equal(*logs)
    ours, trl = weights(tmp_path / "ours"), weights(tmp_path / "trl")
    for key, expected in trl.items():
        scale = (expected - base[key]).abs().max().item()
        assert scale > 0
        torch.testing.assert_close(ours[key], expected, rtol=0, atol=1e-3 * scale)


def test_training_twice_gives_the_same_bits(examples, varied, base, tmp_path):
    logs = [train(examples, 3, tmp_path / name) for name in ("a", "b")]
    pd.testing.assert_frame_equal(*logs)
    assert list(logs[0].columns) == ["step", "reward", "reward_sd", "length", "seed"]
    assert logs[0].step.tolist() == [1, 2] and (logs[0].seed == 3).all()
    assert (logs[0].reward_sd > 0).all() and (logs[0].length <= 8).all()
    one, other = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert not any(torch.equal(one[key], base[key]) for key in one)


def test_a_step_takes_prompts_times_generations(examples, base, monkeypatch, tmp_path):
    """Groups of equal rewards teach nothing: the weights stay."""
    golds = []
    monkeypatch.setattr(grpo, "reward", lambda text, answer: golds.append(answer) or 0.0)
    log = train(examples, 0, tmp_path)
    assert len(golds) == 2 * 2 * 4
    assert all(len(set(golds[i : i + 4])) == 1 for i in range(0, len(golds), 4))
    assert (log.reward == 0).all() and (log.reward_sd == 0).all()
    assert all(torch.equal(weight, base[key]) for key, weight in weights(tmp_path).items())


def test_bfloat16_sampled_in_parts_with_activations_recomputed(
    examples, varied, base, monkeypatch, tmp_path
):
    monkeypatch.setattr(grpo, "TOGETHER", 1)
    log = train(examples, 0, tmp_path, checkpointing=True, dtype="bfloat16")
    assert log.step.tolist() == [1, 2] and log.reward_sd.notna().all()
    saved = weights(tmp_path)
    assert {weight.dtype for weight in saved.values()} == {torch.bfloat16}
    matrices = {key: weight for key, weight in saved.items() if weight.ndim > 1}
    assert not any(torch.equal(weight, base[key].bfloat16()) for key, weight in matrices.items())


def test_more_questions_a_step_than_there_are_is_an_error(examples, tmp_path):
    with pytest.raises(ValueError, match="2 questions a step asked for, 1 at hand"):
        train(examples[:1], 0, tmp_path)


def test_accuracy_is_the_reward_of_greedy_text(whole, tokenizer, examples, monkeypatch):
    seen = set()
    monkeypatch.setattr(grpo, "reward", lambda text, answer: seen.add(text) or 1.0)
    table = grpo.accuracy(whole, tokenizer, examples, 4, 2)
    assert table.id.tolist() == [e.id for e in examples] and (table.accuracy == 1.0).all()
    batched = set(seen)
    seen.clear()
    grpo.accuracy(whole, tokenizer, examples, 4, 1)
    assert seen == batched
