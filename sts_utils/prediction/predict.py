"""Which domains will fine-tuning on my data move? Predicted from SAE features, without any fine-tuning.

`sts_utils.predict(train="my.jsonl")` is the whole method on people's own data; `python -m sts_utils predict` the same
with a report. The module itself can be called. What comes back is a `prediction.Prediction`.
"""

import argparse
import operator
import random
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sts_utils import models, saes, store
from sts_utils.config import Profile
from sts_utils.corpora import contrast
from sts_utils.examples import Example, split
from sts_utils.method import prompts
from sts_utils.method.extract import FeatureStats
from sts_utils.method.prompts import Prompt
from sts_utils.prediction import prediction, userdata
from sts_utils.prediction.prediction import DEFAULT_SCORE, SCORES, Prediction
from sts_utils.prediction.userdata import key, normal
from sts_utils.runs import samples, units

MODEL = "smollm2-135m-instruct"
SAE = "data/saes/smollm2-135m-instruct/layer20-8x-k32"
#: The worked example: 60 problems of school physics and chemistry, written for this project.
EXAMPLE = store.DATA / "example.jsonl"
#: Different sets of demonstrations before the training set's questions; questions take them in turn.
SETS = 4


def predict(
    train=EXAMPLE, *, model: str = MODEL, sae: str = SAE, domains="mmlu-test", demonstrations=None,
    n: int = 100, shots: int = 5, queries: int = 32, seeds: Sequence[int] = (0, 1, 2), score: str = DEFAULT_SCORE,
    columns: Mapping[str, str] | None = None, domain_columns: Mapping[str, str] | None = None, signed: bool = False,
    dtype: str = "bfloat16", progress: bool = True,
) -> Prediction:  # fmt: skip
    """Which of `domains` will move when `model` is fine-tuned on `train`, read from the untouched model and an SAE.

    The paper's two steps: D_N = TopN_j E_x (h_j(x_0, y_0, …, x) − h_j(x))² with training examples in context, then a
    domain's STS_act = E Σ_{j∈D_N} h_j(x̃) or STS_ICL = E Σ_{j∈D_N} (h_j(x̃_0, ỹ_0, …, x̃) − h_j(x̃))². Ours:
    sts_relative = mean_{j∈D_N} log(E h_j(x̃) / its mean over the domains); in the contrastive forms the shift under
    other text of the same length is taken from each feature's first.

    | argument | is |
    |---|---|
    | train | a corpus, file, `datasets.Dataset` or list (userdata.read) |
    | model, sae | a packaged model, folder or hub name; an SAE on the residual stream after a block of it |
    | domains | {name: source}, or corpora (all their domains) and files |
    | demonstrations | the same for the domains' worked examples; their own if left out; "none": without STS_ICL |
    | columns, domain_columns | what their columns are called, like {"question": "ask"} |
    | n, shots | N of D_N; worked examples in context |
    | queries, seeds | questions a domain and seed (twice as many of the training set); draws of them |
    | score | what ranks, one of SCORES; `signed`: the signed score too |

    What was read of a domain is stored (data/runs) and serves other training sets. Everything is drawn by the
    seeds alone. Raises ValueError, in one line, for what can't be used, before any weights are loaded.

    >>> import sts_utils
    >>> small = {"model": "tiny", "sae": "random-8x", "dtype": "float32", "progress": False}
    >>> found = sts_utils.predict("chain-sum", domains={"code": "code-io", "health": "pubmedqa"}, n=20, shots=2,
    ...                           queries=4, seeds=[0], **small)
    >>> sorted(found.table.domain), len(found.table)
    (['code', 'health'], 2)
    >>> int(found.rescored(n=5, score="sts_icl").advice(10).examples.sum())
    10
    """
    try:
        seeds = tuple(map(operator.index, seeds))
    except TypeError:
        raise ValueError(f"seeds {seeds!r}: give whole numbers, like [0, 1, 2]") from None
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds {list(seeds)}: one is there twice, and would count twice")
    if not seeds or min(shots, queries) < 1:
        raise ValueError(f"seeds {list(seeds)}, shots {shots}, queries {queries}: give one or more of each")
    prediction.check(n, score, None, demonstrations != "none")
    if dtype not in ("float32", "bfloat16"):
        raise ValueError(f"dtype {dtype!r}: choose float32 or bfloat16")
    # its corpora are no part of a prediction but for the attention-sink threshold: the same for everybody's data
    corpora = {"train": "gsm-symbolic", "domains": "mmlu-test", "demonstrations": "mmlu-cot"}
    profile = Profile(name="predict", about="", model=model, layer=saes.layer(sae), sae=sae, dtype=dtype, **corpora)
    models.check(model, profile.layer)
    if samples.tokenizer(model).chat_template is None:
        raise ValueError(f"model {model!r} has no chat template: give its instruction-tuned version")
    notes = []
    learned = _fitting(profile, _read_train(train, columns, notes), shots, "the training set", notes)
    given, shown = _domains(domains, demonstrations, domain_columns, learned, notes)
    prediction.check_domains(score, given)
    given = {d: _fitting(profile, examples, shots, f"domain {d!r}", notes) for d, examples in given.items()}
    shown = {d: _fitting(profile, examples, shots, f"demonstrations of {d!r}", notes) for d, examples in shown.items()}
    tokenizer = samples.tokenizer(profile.model)
    makers = {"own": None, "generic": partial(contrast.prose, tokenizer)}
    if worked := [e for d in given for e in (*shown.get(d, ()), *given[d]) if e.solution]:
        sizes = contrast.lengths(tokenizer, worked)
        makers["other domains"] = partial(contrast.nearest, tokenizer, others=worked, sizes=sizes)

    plan: list[tuple[tuple, list]] = []
    for seed in seeds:
        for context, match in makers.items():
            plan.append(
                (("train", context, seed), _train_pairs(profile, learned, shots, queries, seed, context, match))
            )
        for d in given:
            plan.append((("domain", d, seed), _domain_pairs(profile, d, given[d], shown, shots, queries, seed)))
    prediction.check(n, score, units.sae(profile).cfg.d_sae, True)
    found = {}
    with tqdm(plan, desc="features", unit="set", disable=not progress) as bar:
        for what, pairs in bar:
            found[what] = _features(profile, pairs, f"{what[1]} seed {what[2]}" if progress else None)
    return Prediction(
        profile, userdata.named(train), learned, given, shown,
        [found["train", "own", s] for s in seeds],
        [[found["train", c, s] for c in makers if c != "own"] for s in seeds],
        {d: [found["domain", d, s] for s in seeds] for d in given}, seeds, n, score, signed, tuple(notes),
    )  # fmt: skip


# --- from sources to pairs of prompts ----------------------------------------------------------


def _read_train(source, columns, notes) -> list[Example]:
    found = userdata.read(source, domain="train", columns=columns, answers=True, notes=notes)
    worked = [e for e in found if e.solution]
    if not worked:
        raise ValueError(
            f"training set {userdata.named(source)}: no row has an answer; predict compares with and without answers"
        )
    if len(worked) < len(found):
        userdata.note(f"{len(found) - len(worked)} of {len(found)} training rows have no answer: left out.", notes)
    return worked


def _domains(domains, demonstrations, columns, learned, notes) -> tuple[dict, dict]:
    """(domain -> questions, domain -> worked examples of their own source) without what the training set asks."""
    given = userdata.read_domains(domains, columns, notes)
    if demonstrations is None and not isinstance(domains, Mapping):
        listed = [domains] if isinstance(domains, str | Path) else domains
        if any(part in userdata.PARTNERS for part in listed):
            demonstrations = [userdata.PARTNERS.get(part, part) for part in listed]
    shown = {} if demonstrations in (None, "none") else userdata.read_domains(demonstrations, columns)
    if demonstrations is None:
        shown = given
    asked, dropped = _asked(learned), 0
    for of in (given, shown):
        for d, examples in list(of.items()):
            of[d] = [e for e in examples if not asked(e)]
            dropped += len(examples) - len(of[d])
    if dropped:
        userdata.note(f"{dropped} questions of the domains are in the training set too and were left out.", notes)
    shown = {d: [e for e in shown.get(d, ()) if e.solution] for d in given} if shown else {}
    for d, examples in given.items():
        if not examples:
            raise ValueError(f"domain {d!r} has no question that the training set does not have: give others")
        if shown and not shown[d]:
            raise ValueError(
                f"domain {d!r} has no worked examples, which STS_ICL needs: give demonstrations={{{d!r}: …}} "
                "with answers, or demonstrations='none' to leave STS_ICL out"
            )
    return given, shown


def _asked(learned: Sequence[Example]) -> Callable[[Example], bool]:
    """Whether the training set asks a question too; options tell apart questions that both have some."""
    same = {key(e) for e in learned}
    every, bare = ({normal(e.question) for e in learned if all_ or not e.options} for all_ in (True, False))
    return lambda e: key(e) in same or normal(e.question) in (bare if e.options else every)


def _fitting(profile: Profile, examples: list[Example], shots: int, what: str, notes: list[str]) -> list[Example]:
    """The examples of which `shots` and a question fit into the model's context, whichever are drawn."""
    longest = models.context_length(profile.model) // (shots + 1) - 32  # 32: a turn's marks
    kept = samples.within(samples.tokenizer(profile.model), examples, longest)
    if len(kept) < len(examples):
        said = f"{len(examples) - len(kept)} of {len(examples)} examples of {what} are longer than {longest} tokens"
        if len(kept) < 2:
            raise ValueError(f"{said}, too long for the context with {shots} before a question: lower shots")
        userdata.note(f"{said} (the context over {shots} + 1 turns) and were left out.", notes)
    return kept


def _train_pairs(
    profile: Profile, examples: list[Example], shots: int, queries: int, seed: int, context: str,
    match: Callable[[random.Random, Example], Example] | None,
) -> list[tuple[Prompt, Prompt]]:  # fmt: skip
    """(plain, icl) prompts of training questions: half of the set is asked, at most 2 × `queries`, half is shown."""
    pool, asked = split(examples, 0.5, seed)
    if len(pool) < shots or len(asked) < 2:
        raise ValueError(
            f"the training set has {len(examples)} usable example(s), but {shots} in context and 2 to look at need "
            f"{max(2 * shots, shots + 2)}: give more, or fewer shots"
        )
    random.Random(seed).shuffle(asked)
    sets = prompts.choose_demonstrations(pool, shots, SETS, seed)
    if match:
        rng = random.Random(f"{context} {seed}")
        sets = [[match(rng, e) for e in chosen] for chosen in sets]
    return prompts.prompt_pairs(
        samples.tokenizer(profile.model), asked[: 2 * queries], sets, models.context_length(profile.model)
    )


def _domain_pairs(
    profile: Profile, domain: str, examples: list[Example], shown: dict, shots: int, queries: int, seed: int
) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts of a domain's questions, none of which is among its demonstrations."""
    chosen = prompts.choose_demonstrations(shown[domain], shots, 1, seed)[0] if shown else []
    seen = {key(e) for e in chosen}
    free = [e for e in examples if key(e) not in seen]
    if len(free) < 2:
        raise ValueError(
            f"domain {domain!r} has {len(free)} question(s) beside its {len(chosen)} demonstrations: give two or more"
        )
    asked = random.Random(seed).sample(free, min(queries, len(free)))
    return prompts.prompt_pairs(samples.tokenizer(profile.model), asked, [chosen], models.context_length(profile.model))


def _features(profile: Profile, pairs: Sequence[tuple[Prompt, Prompt]], desc: str | None) -> FeatureStats:
    """Features of pairs of prompts, stored by what was read: model, SAE and the prompts' own tokens."""
    folders = [Path(name) if Path(name).is_dir() else store.ROOT / name for name in (profile.model, profile.sae)]
    files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for of in folders for f in sorted(of.glob("*.*"))]
    said = store.digest([(a.example_id, a.ids, a.span, b.ids, b.span) for a, b in pairs])
    recipe = units.settings_of(profile, files=files, prompts=said)
    found = units.features("features-predict", [profile], lambda _: recipe, lambda: pairs, desc)
    return replace(found, **{name: np.empty(0) for name in ("h2", "r", "dr", "dr2")})  # not used, so not kept


# --- the command line --------------------------------------------------------------------------


def add_parser(commands) -> None:
    """The command `predict` for run.main: `predict --train my.jsonl --out report`."""
    parser = commands.add_parser("predict", help="which domains will fine-tuning on my data move?")
    parser.add_argument("--train", default=EXAMPLE, help="a corpus, or a .jsonl, .csv or .parquet file")
    parser.add_argument("--model", default=MODEL, help="a packaged model, a folder, or a hub name")
    parser.add_argument("--sae", default=SAE, help='a folder, or "release/sae_id" of sae-lens')
    what = "a corpus, files, or name=source"
    parser.add_argument("--domains", nargs="+", default=["mmlu-test"], help=what)
    parser.add_argument("--demonstrations", nargs="+", help=f"worked examples of the domains: {what}, or none")
    for of in ("columns", "domain-columns"):
        help_ = f"of the {'domains' if 'domain' in of else 'training file'}, like question=ask answer=say"
        parser.add_argument(f"--{of}", nargs="+", default=[], help=help_)
    parser.add_argument("--n", type=int, default=100, help="N of D_N")
    parser.add_argument("--shots", type=int, default=5, help="worked examples in context")
    parser.add_argument("--queries", type=int, default=32, help="questions a domain and seed")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--score", default=DEFAULT_SCORE, choices=SCORES)
    parser.add_argument("--signed", action="store_true", help="the signed score too")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--out", default="report", help="folder of the report")
    parser.add_argument("--budget", type=int, help="extra examples to split over the domains")
    parser.set_defaults(run=run)


def run(chosen: argparse.Namespace) -> int:
    """Predict, write the report and say the ranking. Raises one-line ValueErrors for what can't be used."""
    if not all(seed.strip().isdigit() for seed in chosen.seeds.split(",")):
        raise ValueError(f"--seeds {chosen.seeds!r}: give whole numbers, like 0,1,2")
    prediction.check_folder(Path(chosen.out))
    if chosen.budget is not None:
        prediction.check_budget(chosen.budget)
    columns, domain_columns = _sources(chosen.columns), _sources(chosen.domain_columns)
    for words in (columns, domain_columns):
        if not isinstance(words, dict | None):
            raise ValueError(f"columns {words!r}: give role=column, like question=ask answer=say")
    options = {k: getattr(chosen, k) for k in ("model", "sae", "n", "shots", "queries", "score", "signed", "dtype")}
    found = predict(
        chosen.train, domains=_sources(chosen.domains), demonstrations=_sources(chosen.demonstrations),
        seeds=[int(seed) for seed in chosen.seeds.split(",")], columns=columns, domain_columns=domain_columns,
        **options,
    )  # fmt: skip
    paths = found.write(chosen.out, chosen.budget)
    shown = ["rank", "rank_low", "rank_high", "domain", *(f"{chosen.score}{end}" for end in ("", "_low", "_high"))]
    print(found.table[shown].to_string(index=False, float_format="{:.3g}".format))
    print("\n".join(["", *found.sureness()]))
    if chosen.budget is not None:
        print(f"\n{found.advice(chosen.budget).to_string(index=False, float_format='{:.3g}'.format)}")
    print(f"\nreport: {', '.join(map(str, paths))}")
    return 0


def _sources(words: Sequence[str] | None):
    """["mmlu-test"] -> the corpus, ["a=x.csv"] -> a mapping, ["x.csv"] -> files."""
    if not words:
        return None
    if all("=" in word and not Path(word).is_file() for word in words):
        pairs = dict(word.split("=", 1) for word in words)
        if len(pairs) < len(words):
            raise ValueError(f"{' '.join(words)}: a name is there twice")
        return pairs
    return words[0] if len(words) == 1 else list(words)


class _Callable(types.ModuleType):
    """`sts_utils.predict` names this module and is what people call."""

    def __call__(self, *sources, **settings) -> Prediction:
        return predict(*sources, **settings)


sys.modules[__name__].__class__ = _Callable
