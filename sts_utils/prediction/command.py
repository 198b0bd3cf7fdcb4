"""The command line: `python -m sts_utils predict --train my.jsonl --out report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sts_utils.prediction import page
from sts_utils.prediction.predict import EXAMPLE, predict
from sts_utils.prediction.prediction import check_budget
from sts_utils.prediction.scores import SCORES

#: What the options that take one value are.
HELP = {
    "model": "a packaged model, a folder, or a hub name",
    "sae": 'a folder, or "release/sae_id" of sae-lens',
    "n": "N of D_N",
    "shots": "worked examples in context",
    "queries": "questions a domain and seed",
    "score": "what ranks the domains",
    "dtype": "of the forward pass",
}
CHOICES = {"score": SCORES, "dtype": ("bfloat16", "float32")}


def add_parser(commands) -> None:
    """The command `predict`, for `report.run.main`."""
    parser = commands.add_parser("predict", help="which domains will fine-tuning on my data move?")
    add, what = parser.add_argument, "a corpus, files, or name=source"
    add("--train", default=EXAMPLE, help="a corpus, or a .jsonl, .csv or .parquet file")
    add("--domains", nargs="+", default=["mmlu-test"], help=what)
    add("--demonstrations", nargs="+", help=f"worked examples of the domains: {what}, or none")
    for name, of in (("columns", "training file"), ("domain-columns", "domains")):
        add(f"--{name}", nargs="+", help=f"of the {of}, like question=ask answer=say")
    for name, text in HELP.items():
        default = predict.__kwdefaults__[name]
        chosen = {"choices": CHOICES.get(name), "default": default, "type": type(default)}
        add(f"--{name}", help=text, **chosen)
    add("--seeds", default="0,1,2")
    add("--signed", action="store_true", help="the signed score too")
    add("--out", default="report", help="folder of the report")
    add("--budget", type=int, help="extra examples to split over the domains")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Predict, write the report and say the ranking. Raises ValueErrors of one line."""
    if not all(seed.strip().isdigit() for seed in chosen.seeds.split(",")):
        raise ValueError(f"--seeds {chosen.seeds!r}: give whole numbers, like 0,1,2")
    page.check_folder(Path(chosen.out))
    if chosen.budget is not None:
        check_budget(chosen.budget)
    options = {name: getattr(chosen, name) for name in (*HELP, "signed")}
    for name in ("columns", "domain_columns", "domains", "demonstrations"):
        options[name] = given = _named(getattr(chosen, name))
        if "columns" in name and not isinstance(given, dict | None):
            like = "give role=column, like question=ask answer=say"
            raise ValueError(f"columns {given!r}: {like}")
    seeds = [int(seed) for seed in chosen.seeds.split(",")]
    predicted = predict(chosen.train, seeds=seeds, **options)
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
