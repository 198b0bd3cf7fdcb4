"""Table 1: every training set beside the paper's."""

from sts_utils.experiments import table1
from sts_utils.results import paper


def test_table1(rows, run, ours):
    numbers = rows(("gsm-symbolic", "code-io"), ("sts_act", "sts_icl", "overlap"))
    table, _ = table1.table1(numbers, run)
    index = table.set_index(["source", "training set", "measure"]).sort_index()
    for name, row in numbers.items():
        for measure, e in row.items():
            ours(index.loc[("ours", name, measure)], e)
    for r in paper("table01_other_training_sets").itertuples():
        theirs = index.loc[("paper", r.training_domain)]["value"]
        assert (theirs[r.metric], theirs["overlap"]) == (r.pearson_mean, r.overlap_top100 / 100)
    assert len(table) == 6 + 4
    above, r, *_ = table1.claims(numbers, run)
    assert above.estimate.value == numbers["gsm-symbolic"]["overlap"].value - 8 / 40
    assert r.estimate is numbers["gsm-symbolic"]["sts_icl"]
