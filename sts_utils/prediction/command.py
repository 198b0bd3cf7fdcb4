"""The command line: `python -m sts_utils predict --train my.jsonl --out report`."""

import argparse
import json
import os
import tempfile
from pathlib import Path

from sts_utils import notebooks, store
from sts_utils.prediction.predict import EXAMPLE, SCORES, compare, predict
from sts_utils.prediction.probe import FORMS

#: Options that are no single word, as argparse has them.
KINDS = {name: {"type": int} for name in ("n", "shots", "queries", "probe", "budget")}
KINDS |= {k: {"nargs": "+"} for k in ("train", "domains", "demonstrations", "columns")}
KINDS |= {"domain_columns": {"nargs": "+"}, "lr": {"type": float}, "form": {"choices": FORMS}}
KINDS |= {"score": {"choices": SCORES}, "dtype": {"choices": ("auto", "float32", "bfloat16")}}
KINDS |= {"dry_run": {"action": "store_true"}}
FILES = ("index.html", "table.csv", "table.parquet", "probe.csv", "mixture.jsonl", "results.json")
FILES += ("compare.csv",)


def add_parser(commands) -> None:
    """The command `predict` among argparse's `commands`: an option an argument of the function;
    several training sets are compared."""
    how = {"description": predict.__doc__, "formatter_class": argparse.RawTextHelpFormatter}
    parser = commands.add_parser("predict", help="which domains will fine-tuning move?", **how)
    given = {"train": [EXAMPLE], **predict.__kwdefaults__, "seeds": "0,1,2"}
    for name, default in (given | {"out": "report", "budget": None}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=default, **KINDS.get(name, {}))
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Predict, and write the report: the notebook `predict`, which finds it all in the store."""
    store.check_writable(out := Path(chosen.out).absolute(), "give a folder to write the report to")
    options = {name: _given(name, getattr(chosen, name)) for name in predict.__kwdefaults__}
    for name in FILES:
        (out / name).unlink(missing_ok=True)  # of an earlier report
    if len(chosen.train) > 1:
        table = compare({Path(name).stem: name for name in chosen.train}, **options)
        print(table.to_string(index=False, float_format="{:.3g}".format))
        out.mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "compare.csv", index=False)
        return 0
    made = predict(chosen.train[0], **options)
    if chosen.dry_run:
        example = made.train[0]
        print(f"{example.query}\n→ {example.solution}", *made.notes, sep="\n")
        return 0
    shown = made.table.filter(regex=f"^(rank|domain|change|{made.score})")
    print(*made.says(), shown.to_string(index=False, float_format="{:.3g}".format), sep="\n")
    given = {"TRAIN": chosen.train[0], "MORE": options, "BUDGET": chosen.budget, "OUT": str(out)}
    with tempfile.TemporaryDirectory() as scratch:
        done = notebooks.execute("predict", given | {"FOLDER": os.getcwd()}, Path(scratch))
        notebooks.page(done, out / FILES[0], [])
    (out / "results.json").write_text(json.dumps(made.record(), indent=1, default=str), "utf-8")
    print(f"\nreport: {', '.join(str(out / name) for name in FILES if (out / name).exists())}")
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
