"""A paper profile on the small hub, another family each day; `make rehearse` runs all of it."""

import datetime

import pytest
from rehearsal.__main__ import rehearse
from rehearsal.families import NAMES

#: Extraction, D_N, scores, SFT over two processes, answers written behind five shots, selective
#: tuning through every SAE, verified mathematics.
FIGURES = "fig3 table6 fig7"
SIZES = {
    "seeds": [0],
    "evaluation": {"max_new_tokens": 4, "questions": 1, "held_out": 2},
    "sts": {"queries": 1},
}


@pytest.mark.slow
def test_a_paper_profile_runs_from_its_own_file_formats_to_its_figures(tmp_path):
    name = NAMES[datetime.date.today().toordinal() % len(NAMES)]
    assert rehearse(name, tmp_path, SIZES, FIGURES) == 0
    drawn = {path.stem for path in (tmp_path / "figures" / name).iterdir()}
    assert drawn == set(FIGURES.split())
