import pytest
import torch

from sts_utils import config
from sts_utils.runs import engine


@pytest.mark.parametrize(
    ("asked", "gpu", "installed", "used"),
    [
        ("vllm", False, False, True),  # asked for: what is missing is said
        ("auto", True, True, True),
        ("auto", True, False, False),
        ("auto", False, True, False),
        ("transformers", True, True, False),
    ],
)
def test_vllm_runs_where_it_is_asked_for_or_at_hand(monkeypatch, asked, gpu, installed, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(engine, "find_spec", lambda name: object() if installed else None)
    profile = config.load("llama3-8b").model_copy(update={"engine": asked})
    assert engine.uses_vllm(profile) == used


def test_the_paper_profiles_take_vllm_where_it_is():
    assert {p.engine for p in config.load_all("paper")} == {"auto"}
