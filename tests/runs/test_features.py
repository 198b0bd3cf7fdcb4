import numpy as np

from sts_utils.runs import features
from sts_utils.runs.run import Run


def test_a_profile_can_select_the_released_code_s_readings(profile):
    released = profile.model_copy(update={"alignment": "stream", "definition": "released_code"})
    stats = features.extract_train(released, 0)
    assert stats.n.sum() == profile.shift.stream_rows
    expected = np.argsort(-stats.dh2.sum(0), kind="stable")[: profile.top_n]
    np.testing.assert_array_equal(Run(released).dims[0].ids, expected)
    assert set(Run(released).dims[0].ids) != set(Run(profile).dims[0].ids)
