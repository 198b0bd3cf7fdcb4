"""Fig 7, Table 11: selective fine-tuning, which trains only what chosen features decode to."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from sts_utils import models, results, stats, store
from sts_utils import scores as shift
from sts_utils import train as sft
from sts_utils.config import Profile
from sts_utils.interventions import SelectiveMaps, edited
from sts_utils.results import CHANCE_COLOUR, SAE_COLOUR, Claim, Result
from sts_utils.runs import features, performance, recipes, samples
from sts_utils.runs import models as held
from sts_utils.runs.plan import Step
from sts_utils.runs.run import Run
from sts_utils.stats import Estimate

Changes = dict[tuple[str, int], Estimate]


def compute(run: Run) -> Changes:
    """(which dims, how many) -> change of performance.mathematics."""
    profile, tables = run.profile, {}
    for which, n, draw in choices(profile):
        tables.setdefault((which, n), []).append(tune(profile, which, n, draw))
    before, how = performance.measure_mathematics(profile), performance.mathematics(profile)
    of = how.column, run.templates
    return {choice: change(before, after, *of) for choice, after in tables.items()}


def change(
    before: pd.DataFrame, after: Sequence[pd.DataFrame], column: str, templates: Mapping[str, str]
) -> Estimate:
    """Mean change of `column` over questions and draws of the dims; a row an id."""
    start, *ends = (table.set_index("id")[column].sort_index() for table in (before, *after))
    values = np.stack([(end - start).to_numpy() for end in ends])
    groups = [templates.get(i, i) for i in start.index]
    return Estimate(float(values.mean()), stats.mean_draws(values, groups=groups))


def steps(profile: Profile) -> list[Step]:
    """A training for each choice of dims."""
    kind, stage = "selective fine-tuning", "04_finetune"
    return [Step(kind, tune, (profile, *choice), stage, 1) for choice in choices(profile)]


def choices(profile: Profile) -> list[tuple[str, int, int]]:
    """(which dims, how many, which random draw); none where no layers are named."""
    draws = [("estimated", 0), *(("random", draw) for draw in range(profile.selective.draws))]
    sizes = profile.selective.dims if profile.sweep.layers else ()
    return [(which, n, draw) for n in sizes for which, draw in draws]


def chosen(
    ranked: np.ndarray, which: str, n: int, stream: Sequence[int] = (), sae: str = ""
) -> np.ndarray:
    """`n` features of an SAE: the first of `ranked`, all of its features by their shift, or random
    ones, of the generator's `stream`."""
    if n > len(ranked):
        raise ValueError(f"selective.dims holds {n}, but SAE {sae!r} has {len(ranked)} features")
    if which == "estimated":
        return ranked[:n]
    return np.random.default_rng(stream).choice(len(ranked), n, replace=False)


def tune(profile: Profile, which: str, n: int, draw: int) -> pd.DataFrame:
    """Train the maps, evaluate with them in place; columns of performance.solve."""
    settings, seed, revision = profile.selective, profile.seeds[0], profile.revision

    def dims(p: Profile) -> np.ndarray:
        ranked = shift.shifted_dims(features.extract_train(p, seed), None, p.definition).ids
        return chosen(ranked, which, n, (p.layer, n, draw), p.sae)

    def make(out: Path) -> None:
        tokenizer = samples.tokenizer(profile.model, revision)
        read = [held.with_sae(profile, name) for name in profile.sweep.layers]
        ids, sinks = {p.layer: dims(p) for p in read}, {p.layer: held.sink_norm(p) for p in read}
        held.release()  # the truncated models that read these
        torch.manual_seed(seed)
        model = models.load_model(profile.model, profile.evaluation.dtype, revision)
        hooked = {p.layer: (held.sae(p), ids[p.layer]) for p in read}
        model.requires_grad_(False).selective = maps = SelectiveMaps(hooked).to(model.device)
        examples = samples.training_examples(profile, seed)[0][: settings.examples]
        asked = samples.mathematics(profile, profile.evaluation.held_out)
        with edited(model, maps.edits(sinks)):
            how = examples, settings.lr, seed, f"{n} {which} dims"
            log = sft.train_answers(model.train(), tokenizer, profile.sft, *how)
            table = performance.solve(profile, asked, whole=model.eval())
        save_file(maps.state_dict(), out / "maps.safetensors")
        log.to_parquet(out / "log.parquet", index=False)
        table.to_parquet(out / "table.parquet", index=False)

    keys = ("model", "revision", "train", "sft", "shift", "dtype", "definition")
    told = features.shown_recipe(profile, seed)
    told |= {"selective": settings.model_dump(include={"examples", "lr"})}
    told |= {"saes": [(name, recipes.sae_content(name)) for name in profile.sweep.layers]}
    told |= {"questions": profile.evaluation.held_out}
    told |= {"seed": seed, "which": which, "n": n, "draw": draw}
    told |= {"frozen": profile.evaluation.dtype}  # what is trained is float32
    told |= performance.mathematics(profile).recipe
    recipe = recipes.of(profile, *keys, "alignment", "place", **told)
    return pd.read_parquet(store.folder("selective", recipe, make) / "table.parquet")


def fig7(numbers: Changes, run: Run) -> tuple[Figure, str] | None:
    """Mathematics after selective fine-tuning of estimated against random dims."""
    if not numbers:
        return None
    figure, axis = plt.subplots(figsize=(3.4, 2.6))
    sizes = sorted({n for _, n in numbers})
    for i, (which, colour) in enumerate((("estimated", SAE_COLOUR), ("random", CHANCE_COLOUR))):
        of = [numbers[which, n] for n in sizes]
        look = {"capsize": 3, "color": colour, "label": f"{which} dims"}
        x = np.arange(len(sizes)) + 0.3 * (i - 0.5)
        axis.bar(x, [e.value for e in of], 0.28, yerr=results.bars(of), **look)
    axis.set_xticks(range(len(sizes)), sizes)
    how = performance.mathematics(run.profile)
    axis.set(xlabel="dims chosen a layer", ylabel=f"change of {how.name},\n{how.unit}")
    figure.legend(frameon=False, loc="outside upper center", ncols=2)
    p = run.profile
    return figure, (
        f"Fig 7. {how.name.capitalize()} of {how.of} after selective fine-tuning, against the "
        "untouched model: only linear maps from the chosen features into the residual stream "
        f"train, at {len(p.sweep.layers)} layers (the paper: five), on {p.selective.examples} "
        f"examples; one seed, {p.selective.draws} random draws, of features that may seldom fire; "
        "95% over questions and draws. The paper: estimated dims are better."
    )


def table11(numbers: Changes, run: Run) -> tuple[pd.DataFrame, str] | None:
    """Selective fine-tuning at two sizes."""
    if not numbers:
        return None
    rows = [
        {"source": "ours", "dims": n, "which": which, **results.numbers(e)}
        for (which, n), e in numbers.items()
    ]
    for r in results.paper("table11_selective_finetuning").itertuples():
        common = {"source": "paper (points)", "dims": r.selected_dims}
        for which, after in (("random", r.random_dims), ("estimated", r.estimated_dims)):
            rows.append({**common, "which": which, "value": after - r.before_sft})
    how = performance.mathematics(run.profile)
    return pd.DataFrame(rows), (
        "Table 11. Selective fine-tuning: change against the untouched model; ours of the "
        f"{how.name} of {how.of} ({how.unit}), the paper's in points of accuracy. Dims are of one "
        "layer; the paper's SAE has 28,672."
    )


def claims(numbers: Changes, run: Run) -> Iterator[Claim]:
    """At each size, training the estimated dims helps more than training random ones."""
    theirs = results.paper("table11_selective_finetuning").itertuples()
    how = performance.mathematics(run.profile)
    sizes = sorted({n for _, n in numbers})
    for n, paper in zip(sizes, theirs, strict=False):
        gap = numbers["estimated", n] - numbers["random", n]
        statistic = f"{how.name}, estimated minus random, {n} dims a layer"
        words = f"{paper.estimated_dims} against {paper.random_dims}, {paper.selected_dims} dims"
        yield Claim("fig7", "tuning estimated dims beats random dims", statistic, gap, words)


RESULTS = (
    Result(fig7, "Fig 7: selective fine-tuning"),
    Result(table11, "Table 11: selective fine-tuning", "table"),
)
