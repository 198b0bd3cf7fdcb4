"""A paper profile runs whole on the small hub, another family each day."""

import datetime

import pytest
from rehearsal.__main__ import rehearse
from rehearsal.families import NAMES


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_paper_profile_runs_whole(tmp_path):
    name = NAMES[datetime.date.today().toordinal() % len(NAMES)]
    assert rehearse(name, tmp_path, {"seeds": [0]}) == 0
