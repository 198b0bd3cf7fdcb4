"""The command line: `python -m sts_utils predict --train my.jsonl --out report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sts_utils.prediction import page, prediction
from sts_utils.prediction import predict as prediction_of
from sts_utils.prediction.scores import DEFAULT_SCORE, SCORES


def add_parser(commands) -> None:
    """The command `predict`, for `report.run.main`."""
    parser = commands.add_parser("predict", help="which domains will fine-tuning on my data move?")
    add, what = parser.add_argument, "a corpus, files, or name=source"
    a_file = "a corpus, or a .jsonl, .csv or .parquet file"
    add("--train", default=prediction_of.EXAMPLE, help=a_file)
    add("--model", default=prediction_of.MODEL, help="a packaged model, a folder, or a hub name")
    add("--sae", default=prediction_of.SAE, help='a folder, or "release/sae_id" of sae-lens')
    add("--domains", nargs="+", default=["mmlu-test"], help=what)
    add("--demonstrations", nargs="+", help=f"worked examples of the domains: {what}, or none")
    for name, of in (("columns", "training file"), ("domain-columns", "domains")):
        like = f"of the {of}, like question=ask answer=say"
        add(f"--{name}", nargs="+", default=[], help=like)
    add("--n", type=int, default=100, help="N of D_N")
    add("--shots", type=int, default=5, help="worked examples in context")
    add("--queries", type=int, default=32, help="questions a domain and seed")
    add("--seeds", default="0,1,2")
    add("--score", default=DEFAULT_SCORE, choices=SCORES)
    add("--signed", action="store_true", help="the signed score too")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    add("--out", default="report", help="folder of the report")
    add("--budget", type=int, help="extra examples to split over the domains")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Predict, write the report and say the ranking.

    Raises ValueError, in one line, for what can't be used.
    """
    if not all(seed.strip().isdigit() for seed in chosen.seeds.split(",")):
        raise ValueError(f"--seeds {chosen.seeds!r}: give whole numbers, like 0,1,2")
    page.check_folder(Path(chosen.out))
    if chosen.budget is not None:
        prediction.check_budget(chosen.budget)
    same = ("model", "sae", "n", "shots", "queries", "score", "signed", "dtype")
    options = {name: getattr(chosen, name) for name in same}
    for name in ("columns", "domain_columns"):
        options[name] = columns = _named(getattr(chosen, name))
        if not isinstance(columns, dict | None):
            like = "give role=column, like question=ask answer=say"
            raise ValueError(f"columns {columns!r}: {like}")
    for name in ("domains", "demonstrations"):
        options[name] = _named(getattr(chosen, name))
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    predicted = prediction_of.predict(chosen.train, seeds=seeds, **options)
    paths = predicted.write(chosen.out, chosen.budget)
    three = {"index": False, "float_format": "{:.3g}".format}
    scored = [f"{chosen.score}{end}" for end in ("", "_low", "_high")]
    columns = ["rank", "rank_low", "rank_high", "domain", *scored]
    print(predicted.table[columns].to_string(**three))
    print("\n".join(["", *predicted.sureness()]))
    if chosen.budget is not None:
        print(f"\n{predicted.advice(chosen.budget).to_string(**three)}")
    print(f"\nreport: {', '.join(map(str, paths))}")
    return 0


def _named(words: Sequence[str] | None):
    """["mmlu-test"] -> the corpus, ["a=x.csv"] -> a mapping, ["x.csv"] -> files."""
    if not words:
        return None
    if all("=" in word and not Path(word).is_file() for word in words):
        pairs = dict(word.split("=", 1) for word in words)
        if len(pairs) < len(words):
            raise ValueError(f"{' '.join(words)}: a name is there twice")
        return pairs
    return words[0] if len(words) == 1 else list(words)
