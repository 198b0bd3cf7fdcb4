"""The curves of training are the logs."""

import matplotlib.pyplot as plt
import pandas as pd

from sts_utils.experiments import training


def test_curves_are_the_logs(run):
    names, when = ["SFT 0"] * 3 + ["SFT 1"] * 3, ["before"] * 2 + ["after"] * 2
    log = pd.DataFrame({"step": [1, 2, 3] * 2, "loss": [3.0, 2, 1, 5, 4, 3], "run": names})
    loglik = {"id": list("abab"), "solution_loglik": [-2.0, -4.0, -1.0, -2.0], "when": when}
    loglik["seed"] = [pd.NA] * 2 + [0] * 2
    figure, caption = training.training(training.Numbers(log, pd.DataFrame(loglik)), run)
    left, right = figure.axes
    drawn = [list(x.get_ydata()) for x in left.lines if len(x.get_ydata())]
    assert drawn == [[3, 2, 1], [5, 4, 3]]
    assert list(right.lines[0].get_ydata()) == [3.0, 1.5]
    assert "on 2 held-out" in caption and "3.000 before and 1.500 nats" in caption
    assert "by question: -1.50 [-2.00, -1.00]" in caption and len(caption.split()) <= 60
    plt.close(figure)
