"""The command line: `python -m sts_utils predict --train my.jsonl --out report`."""

import argparse
from pathlib import Path

from sts_utils import store
from sts_utils.prediction import report
from sts_utils.prediction.predict import EXAMPLE, predict

#: Arguments of `predict` that are numbers, and that take several words.
NUMBERS = ("n", "shots", "queries", "probe", "budget")
SEVERAL = ("domains", "demonstrations", "columns", "domain_columns")


def add_parser(commands) -> None:
    """The command `predict` among argparse's `commands`: an option an argument of the function."""
    how = {"description": predict.__doc__, "formatter_class": argparse.RawTextHelpFormatter}
    parser = commands.add_parser("predict", help="which domains will fine-tuning move?", **how)
    defaults = {"train": EXAMPLE, **predict.__kwdefaults__, "out": "report", "budget": None}
    for name, default in (defaults | {"seeds": "0,1,2"}).items():
        kind = int if name in NUMBERS else str
        told = {"nargs": "+"} if name in SEVERAL else {"type": kind}
        if name != "progress":
            parser.add_argument(f"--{name.replace('_', '-')}", default=default, **told)
    parser.set_defaults(run=run, progress=True)


def run(chosen: argparse.Namespace) -> int:
    """Predict, write the report and say the ranking. Raises ValueErrors of one line."""
    if not all(seed.strip().isdigit() for seed in chosen.seeds.split(",")):
        raise ValueError(f"--seeds {chosen.seeds!r}: give whole numbers, like 0,1,2")
    if chosen.budget is not None and chosen.budget < 1:
        raise ValueError(f"--budget {chosen.budget}: give 1 or more extra examples")
    store.check_writable(Path(chosen.out), report.MEND)
    options = {name: getattr(chosen, name) for name in predict.__kwdefaults__}
    options["seeds"] = [int(seed) for seed in chosen.seeds.split(",")]
    options |= {name: _named(name, options[name]) for name in SEVERAL}
    predicted = predict(chosen.train, **options)
    three = {"index": False, "float_format": "{:.3g}".format}
    if predicted.probe:
        print(f"{predicted.probe.table.to_string(**three)}\n")
    scored = [f"{chosen.score}{end}" for end in ("", "_low", "_high")]
    columns = ["rank", "rank_low", "rank_high", "domain", *scored]
    print(predicted.table[columns].to_string(**three))
    if chosen.budget:
        print(f"\n{predicted.advice(chosen.budget).to_string(**three)}")
    print(f"\nreport: {', '.join(map(str, predicted.write(chosen.out, chosen.budget)))}")
    return 0


def _named(name: str, words: list[str] | str | None):
    """["mmlu-test"] -> the corpus, ["a=x.csv"] -> a mapping, ["x.csv"] -> files."""
    if not isinstance(words, list):
        return words  # a default
    if all("=" in word and not Path(word).is_file() for word in words):
        pairs = dict(word.split("=", 1) for word in words)
        if len(pairs) < len(words):
            raise ValueError(f"{' '.join(words)}: a name is there twice")
        return pairs
    if "columns" in name:
        raise ValueError(f"{name} {words}: give role=column, like question=ask answer=say")
    return words[0] if len(words) == 1 else words
