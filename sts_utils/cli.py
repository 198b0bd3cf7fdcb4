"""The commands that compute: `sts reproduce --profile smol --seeds 0,1,2`."""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sts_utils import check, config, notebooks, plan, store
from sts_utils.prediction.predict import EXAMPLE, SCORES, compare, predict
from sts_utils.prediction.probe import FORMS
from sts_utils.store import FIGURES, RUNS

#: Options that are no single word, as argparse has them.
KINDS = {name: {"type": int} for name in ("n", "shots", "queries", "probe", "lora", "budget")}
MANY = ("train", "domains", "demonstrations", "columns", "domain_columns")
KINDS |= {k: {"nargs": "+"} for k in MANY} | {"dry_run": {"action": "store_true"}}
KINDS |= {"lr": {"type": float}, "form": {"choices": FORMS}, "score": {"choices": SCORES}}
KINDS |= {"dtype": {"choices": ("auto", "float32", "bfloat16")}}
FILES = ("index.html", "table.csv", "table.parquet", "probe.csv", "mixture.jsonl", "results.json")
FILES += ("compare.csv",)


def main(words: Sequence[str]) -> int:
    """One of the commands that compute, as `python -m sts_utils` was given it; its exit status."""
    command, *options = words
    if command in ("reproduce", "render"):
        return reproduce(check.parser(command).parse_args(options), command == "render")
    how = {"description": predict.__doc__, "formatter_class": argparse.RawTextHelpFormatter}
    parser = argparse.ArgumentParser(f"sts {command}", **(how if command == "predict" else {}))
    if command == "predict":
        given = {"train": [EXAMPLE], **predict.__kwdefaults__, "seeds": "0,1,2"}
        for name, value in (given | {"out": "report", "budget": None}).items():
            parser.add_argument("--" + name.replace("_", "-"), default=value, **KINDS.get(name, {}))
        return prediction(parser.parse_args(options))
    parser.add_argument("--model", required=True, help="a folder, or a model of the hub")
    parser.add_argument("--out", required=True, help="a folder for the SAE and the page on it")
    for name, default in {"layer": 12, "times": 8, "k": 32, "rows": 1_500_000}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="as notebook 00 has it")
    return train_sae(parser.parse_args(options))


def reproduce(chosen: argparse.Namespace, render: bool) -> int:
    """The commands `reproduce` and `render`: compute what is missing, then run the notebooks."""
    profiles = {name: config.load(name, chosen.seeds) for name in config.members(chosen.profile)}
    os.environ.setdefault("TQDM_MININTERVAL", "5")
    for profile in profiles.values():
        if problems := check.problems(profile):
            raise ValueError(f"can't run {profile.name}: {'; '.join(problems)}")
    for folder in (RUNS, FIGURES):
        store.check_writable(folder, "set STS_OUT to a folder that can")
    store.clear_abandoned()
    began = time.time()
    for name, profile in profiles.items():
        check.prepare(profile)
        minutes = check.estimate(profile).seconds.sum() / 60
        print(f"{name}: about {minutes:.0f} minutes, less what is kept of them", flush=True)
        workers = check.workers(profile)
        how = {"over_ray": profile.executor == "ray" or workers > 1}
        how["weight"] = lambda call: check.cost(call)[1]
        done: dict[str, Path] = {}
        for part in notebooks.parts(profile):
            plan.compute(plan.rounds(part), workers, **how)
            notebooks.run(part, profile, name, done, began)
        if render:
            for other in notebooks.OTHERS:
                parameters = {} if other == "predict" else {"PROFILE": name}
                done[other] = notebooks.execute(other, parameters, RUNS / "notebooks")
            for path in done.values():  # beside their sources, to be committed
                shutil.copy(path, notebooks.NOTEBOOKS / path.name)
        print(f"figures, tables and pages: {FIGURES / profile.name}/index.html")
        print(f"executed notebooks: {RUNS / 'notebooks' / profile.name}")
    return 0


def prediction(chosen: argparse.Namespace) -> int:
    """The command `predict`: predict, and write a report; of several training sets compare them."""
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
        print(made.train[0].query, f"→ {made.train[0].solution}", *made.notes, sep="\n")
        return 0
    shown = made.table.filter(regex=f"^(rank|domain|change|{made.score})")
    print(*made.says(), shown.to_string(index=False, float_format="{:.3g}".format), sep="\n")
    given = {"TRAIN": chosen.train[0], "MORE": options, "BUDGET": chosen.budget, "OUT": str(out)}
    _report("predict", given | {"FOLDER": os.getcwd()}, out)
    (out / "results.json").write_text(json.dumps(made.record(), indent=1, default=str), "utf-8")
    print(f"\nreport: {', '.join(str(out / name) for name in FILES if (out / name).exists())}")
    print("next: sts predict --train my.jsonl --probe 40 (your data); sts reproduce (the paper)")
    return 0


def train_sae(chosen: argparse.Namespace) -> int:
    """The command `train-sae`: notebook 00 for one model, its SAE and its page."""
    model = str(Path(chosen.model).absolute()) if Path(chosen.model).is_dir() else chosen.model
    store.check_writable(out := Path(chosen.out).absolute(), "give a folder to write the SAE to")
    if out.exists() and any(out.iterdir()):  # it would take the place of what is there
        raise ValueError(f"{out} is not empty: give a new folder")
    sizes = {name.upper(): getattr(chosen, name) for name in ("layer", "times", "k", "rows")}
    given = {"MODEL": model, "OUT": str(out), "RETRAIN": True} | sizes
    _report("00_train_saes", given, out)
    print(f"sae: {out} (predict --model {chosen.model} --sae {chosen.out}); page: {out / FILES[0]}")
    return 0


def _report(name: str, parameters: dict, out: Path) -> None:
    """The page that the notebook makes, in the folder `out`."""
    with tempfile.TemporaryDirectory() as scratch:
        done = notebooks.execute(name, parameters, Path(scratch))
        notebooks.page(done, out / FILES[0], [])


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
