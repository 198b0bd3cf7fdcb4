"""A paper profile on the small hub: each day another family and another part of the run. Notebooks
05 and 06 whole evaluate every fine-tuned model, which only `make rehearse` has the time for."""

import datetime

import pytest
from rehearsal.__main__ import rehearse
from rehearsal.families import NAMES

#: Figures alone (SFT over two processes, answers written behind five shots, selective tuning
#: through every SAE, verified mathematics), or whole notebooks, of which the last fine-tunes nine
#: models, in one process each: two of each would take longer than a test may.
PARTS = ("fig3 table6 fig7", ("01_extract", "02_shift_detect", "03_score"), ("04_finetune",))
SIZES = {
    "seeds": [0],
    "evaluation": {"max_new_tokens": 4, "questions": 2, "held_out": 2},
    "sts": {"queries": 1},
}


@pytest.mark.slow
def test_a_paper_profile_runs_from_its_own_file_formats_to_its_figures(tmp_path):
    day = datetime.date.today().toordinal()
    name, part = NAMES[day % len(NAMES)], PARTS[day // len(NAMES) % len(PARTS)]
    if isinstance(part, str):
        assert rehearse(name, tmp_path, SIZES, part) == 0
        drawn = {path.stem for path in (tmp_path / "figures" / name).iterdir()}
        assert drawn == set(part.split())
    else:
        one = {"launcher": None} if "04_finetune" in part else {}
        assert rehearse(name, tmp_path, SIZES | {"stages": list(part)} | one) == 0
        made = {path.stem for path in (tmp_path / "runs/notebooks" / name).iterdir()}
        assert made == set(part)
