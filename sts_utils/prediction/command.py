"""The command line: `python -m sts_utils predict --train my.jsonl --out report`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sts_utils import store
from sts_utils.prediction import report
from sts_utils.prediction.predict import EXAMPLE, predict
from sts_utils.prediction.prediction import SCORES


def add_parser(commands) -> None:
    """The command `predict` among argparse's `commands`; its defaults are the function's."""
    parser = commands.add_parser("predict", help="which domains will fine-tuning on my data move?")
    add, what = parser.add_argument, "a corpus, files, or name=source"
    add("--train", default=EXAMPLE, help="a corpus, or a .jsonl, .csv or .parquet file")
    add("--domains", nargs="+", help=what)
    add("--demonstrations", nargs="+", help=f"worked examples of the domains: {what}, or none")
    add("--columns", nargs="+", help="of the training file, like question=ask answer=say")
    add("--domain-columns", nargs="+", help="of the domains, like question=ask answer=say")
    add("--model", help="a packaged model, a folder, or a hub name")
    add("--sae", help='a folder, or "release/sae_id" of sae-lens')
    add("--n", type=int, help="N of D_N")
    add("--shots", type=int, help="worked examples in context")
    add("--queries", type=int, help="questions a domain and seed")
    add("--seeds", help="like 0,1,2")
    add("--score", choices=SCORES, help="what ranks the domains")
    add("--probe", type=int, help="steps of fine-tuning to try, like 8")
    add("--dtype", choices=("auto", "bfloat16", "float32"), help="auto: what is faster here")
    add("--out", type=Path, default="report", help="folder of the report")
    add("--budget", type=int, help="extra examples to split over the domains")
    parser.set_defaults(**predict.__kwdefaults__ | {"seeds": "0,1,2", "run": run})


def run(chosen: argparse.Namespace) -> int:
    """Predict, write the report and say the ranking. Raises ValueErrors of one line."""
    if not all(seed.strip().isdigit() for seed in chosen.seeds.split(",")):
        raise ValueError(f"--seeds {chosen.seeds!r}: give whole numbers, like 0,1,2")
    if chosen.budget is not None and chosen.budget < 1:
        raise ValueError(f"--budget {chosen.budget}: give 1 or more extra examples")
    store.check_writable(chosen.out, report.MEND)
    options = {name: getattr(chosen, name) for name in predict.__kwdefaults__}
    options["seeds"] = [int(seed) for seed in chosen.seeds.split(",")]
    for name in ("columns", "domain_columns", "domains", "demonstrations"):
        options[name] = given = _named(options[name])
        if "columns" in name and not isinstance(given, dict | None):
            raise ValueError(f"columns {given!r}: give role=column, like question=ask answer=say")
    predicted = predict(chosen.train, **options)
    three = {"index": False, "float_format": "{:.3g}".format}
    if predicted.probe:
        print(f"{predicted.probe.table.to_string(**three)}\n")
    scored = [f"{chosen.score}{end}" for end in ("", "_low", "_high")]
    columns = ["rank", "rank_low", "rank_high", "domain", *scored]
    print(predicted.table[columns].to_string(**three))
    if chosen.budget is not None:
        print(f"\n{predicted.advice(chosen.budget).to_string(**three)}")
    print(f"\nreport: {', '.join(map(str, predicted.write(chosen.out, chosen.budget)))}")
    return 0


def _named(words: Sequence[str] | str | None):
    """["mmlu-test"] -> the corpus, ["a=x.csv"] -> a mapping, ["x.csv"] -> files."""
    if not isinstance(words, list):
        return words  # a default
    if all("=" in word and not Path(word).is_file() for word in words):
        pairs = dict(word.split("=", 1) for word in words)
        if len(pairs) < len(words):
            raise ValueError(f"{' '.join(words)}: a name is there twice")
        return pairs
    return words[0] if len(words) == 1 else words
