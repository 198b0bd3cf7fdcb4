"""Table 1: every training set beside the paper's, and whether it was learnt."""

import numpy as np
import pandas as pd
import pytest

from sts_utils.experiments import table1
from sts_utils.results import paper
from sts_utils.runs import plan
from sts_utils.runs.run import loss_change
from sts_utils.stats import Estimate


def test_table1(made, made_r, run, ours):
    def of(loss):
        change = Estimate(loss, loss + np.linspace(-0.05, 0.05, 100))
        measures = {"sts_act": made_r(), "sts_icl": made_r(), "overlap": made()}
        return table1.Numbers(measures, (2.0, 2.0 + loss), change)

    numbers = {"gsm-symbolic": of(-0.3), "pubmedqa": of(0.3), "code-io": of(-0.04)}
    assert [row.learnt for row in numbers.values()] == [True, False, False]  # one may be 0
    table, caption = table1.table1(numbers, run)
    assert "Unlearnt: pubmedqa, code-io." in caption
    assert len(caption.split()) <= 60
    index = table.set_index(["source", "training set", "measure"]).sort_index()
    for name, row in numbers.items():
        for measure, e in {**row.measures, "change of loss": row.change}.items():
            shown = index.loc[("ours", name, measure)]
            ours(shown, e)
            assert (shown["loss before"], shown["loss after"]) == row.loss
            assert shown.learnt == ("learnt" if row.learnt else "not learnt")
        assert index.loc[("ours", name, "sts_icl")].reliability == 0.9
    for r in paper("table01_other_training_sets").itertuples():
        theirs = index.loc[("paper", r.training_domain)]["value"]
        assert (theirs[r.metric], theirs["overlap"]) == (r.pearson_mean, r.overlap_top100 / 100)
    assert len(table) == 3 * 4 + 4
    above, r = table1.claims(numbers, run)  # of the set that was learnt alone
    measures = numbers["gsm-symbolic"].measures
    assert above.estimate.value == measures["overlap"].value - 8 / 40
    assert r.estimate is measures["sts_icl"]


def test_losses_are_paired_by_question():
    before = pd.DataFrame({"id": list("cab"), "solution_loglik": [-3.0, -1.0, -2.0]})
    one = pd.DataFrame({"id": list("abc"), "solution_loglik": [-0.9, -1.8, -2.7]})
    two = pd.DataFrame({"id": list("bca"), "solution_loglik": [-1.6, -2.4, -0.8]})
    after = [one.assign(when="after", seed=0), two.assign(when="after", seed=1)]
    change = loss_change(pd.concat([before.assign(when="before", seed=pd.NA), *after]), {})
    assert change.value == pytest.approx(np.mean([-0.1, -0.2, -0.3, -0.2, -0.4, -0.6]))
    assert -0.6 <= change.low < change.value < change.high <= -0.1


def test_losses_of_the_other_sets_are_steps(profile):
    """Before and after, the latter of the very model that the base run trains."""
    before, after = table1.steps(profile)
    (run,), (again, tuned) = before.args, after.args
    assert run == again and run.train == "code-io" and before.after < after.after
    assert (tuned.compute, tuned.args) in [(s.compute, s.args) for s in plan.base(profile)]
