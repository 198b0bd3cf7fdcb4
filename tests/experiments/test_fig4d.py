"""Fig 4d: ranges of ranks, of which the first is D_N."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from sts_utils.experiments import fig4d


def test_rank_ranges_begin_with_d_n(run):
    numbers = fig4d.compute(run)
    assert list(numbers) == ["1–8", "9–16", "17–24", "25–32", "33–40"]
    for metric, r in run.correlations().items():
        assert numbers["1–8"][metric].value == r.value
        np.testing.assert_array_equal(numbers["1–8"][metric].domains, r.domains)
    x = []
    for train, domains in zip(run.train, run.domains, strict=True):
        ids = np.argsort(-train.dh2.sum(0) / train.n.sum())[16:24]
        x.append([of.h[:, ids].sum() / of.n.sum() for of in domains.values()])
    y = np.abs([change.mean() for change in run.change_arrays])
    by_hand = np.corrcoef(np.mean(x, axis=0), y)[0, 1]
    assert numbers["17–24"]["sts_act"].value == pytest.approx(by_hand)


def test_points_and_claims_are_the_estimates(rows, run, same):
    numbers = rows(["1–8", "9–16", "17–24"])
    figure, caption = fig4d.fig4d(numbers, run)
    for metric, container in zip(("sts_act", "sts_icl"), figure.axes[0].containers, strict=True):
        same(container, [row[metric] for row in numbers.values()], x=range(3))
    assert len(caption.split()) <= 60
    plt.close(figure)
    claim = next(fig4d.claims(numbers, run))
    first, *later = (row["sts_act"] for row in numbers.values())
    assert claim.estimate.value == pytest.approx(first.value - np.mean([e.value for e in later]))
