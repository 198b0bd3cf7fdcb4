"""A part of each paper profile on the small hub; whole by `make rehearse`, which has the time."""

import pytest
from rehearsal.__main__ import rehearse

SIZES = {"seeds": [0], "sts": {"queries": 1}, "others": []}
SIZES["evaluation"] = {"max_new_tokens": 4, "shots": 1, "questions": 2, "held_out": 2}
SIZES["evaluation"]["dtype"] = SIZES["dtype"] = "auto"  # emulated bfloat16 takes ten times as long
#: SFT over two processes and answers written behind a shot; selective tuning through every SAE;
#: SAEs of each kind.
PARTS = {"llama3-8b": ["01_extract", "03_score", "04_finetune", "06_plot"]}
PARTS |= {"qwen2.5-7b": ["03_score", "13_selective"], "gemma2-9b": ["03_score"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_paper_profile_runs_from_its_own_file_formats_to_its_figures(name, tmp_path):
    assert rehearse(name, tmp_path, SIZES | {"stages": PARTS[name]}) == 0
    made = {path.stem for path in (tmp_path / "runs/notebooks" / name).iterdir()}
    assert made == set(PARTS[name])
