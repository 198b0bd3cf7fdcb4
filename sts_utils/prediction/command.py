"""The command line: `python -m sts_utils predict --train my.jsonl --out report`."""

import argparse
import os
import tempfile
from pathlib import Path

from sts_utils import notebooks, store
from sts_utils.prediction.predict import EXAMPLE, SCORES, predict

#: Options that are no single word, as argparse has them.
KINDS = {name: {"type": int} for name in ("n", "shots", "queries", "probe", "budget")}
KINDS |= {k: {"nargs": "+"} for k in ("domains", "demonstrations", "columns", "domain_columns")}
KINDS |= {"score": {"choices": SCORES}, "dtype": {"choices": ("auto", "float32", "bfloat16")}}
FILES = ("index.html", "table.csv", "table.parquet", "probe.csv", "mixture.jsonl")


def add_parser(commands) -> None:
    """The command `predict` among argparse's `commands`: an option an argument of the function."""
    how = {"description": predict.__doc__, "formatter_class": argparse.RawTextHelpFormatter}
    parser = commands.add_parser("predict", help="which domains will fine-tuning move?", **how)
    given = {"train": EXAMPLE, **predict.__kwdefaults__, "seeds": "0,1,2"}
    for name, default in (given | {"out": "report", "budget": None}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, **KINDS.get(name, {}))
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Predict, and write the report: the notebook `predict`, which finds it all in the store."""
    store.check_writable(out := Path(chosen.out).absolute(), "give a folder to write the report to")
    options = {name: _given(name, getattr(chosen, name)) for name in predict.__kwdefaults__}
    options["seeds"] = [int(seed) for seed in chosen.seeds.split(",")]  # of "0,1,2"
    ranks = predict(chosen.train, **options).table.filter(regex=f"^(rank|domain|{chosen.score})")
    print(ranks.to_string(index=False, float_format="{:.3g}".format), end="\n\n")
    for name in FILES:
        (out / name).unlink(missing_ok=True)  # of an earlier report
    given = {"TRAIN": chosen.train, "MORE": options, "BUDGET": chosen.budget, "OUT": str(out)}
    with tempfile.TemporaryDirectory() as scratch:
        done = notebooks.execute("predict", given | {"FOLDER": os.getcwd()}, Path(scratch))
        notebooks.page(done, out / FILES[0], [])
    print(f"report: {', '.join(str(out / name) for name in FILES if (out / name).exists())}")
    return 0


def _given(name: str, words):
    """["mmlu-test"] -> the corpus, ["a=x.csv"] -> a mapping, ["x.csv"] -> files."""
    if not isinstance(words, list):
        return words  # a default
    if "columns" not in name and not all("=" in w and not Path(w).is_file() for w in words):
        return words[0] if len(words) == 1 else words
    pairs = [word.split("=", 1) for word in words]
    if len({key for key, *_ in pairs}) < len(words) or min(map(len, pairs)) < 2:
        raise ValueError(f"{name} {' '.join(words)}: give name=value, each name once")
    return dict(pairs)
