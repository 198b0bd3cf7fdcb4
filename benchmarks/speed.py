"""What the method costs: each figure a ratio of two things measured side by side in this run.

`make bench` (or `python benchmarks/speed.py --profile smol`) prints the table and writes it to
benchmarks/speed.csv and docs/costs.md.
"""

import argparse
import gc
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from bare import Bare
from safetensors.torch import load_file, save_file

from sts_utils import (
    batches,
    check,
    config,
    corpora,
    models,
    notebooks,
    prompts,
    questions,
    run,
    saes,
)
from sts_utils import evaluate as options
from sts_utils import features as extract
from sts_utils import scores as shift
from sts_utils import train as sft
from sts_utils.config import Profile
from sts_utils.features import Hook
from sts_utils.store import ROOT


def seconds(function) -> float:
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(measure: str, value: float, bar: str, sizes: str) -> dict:
    return {"measure": measure, "value": value, "bar": bar, "sizes": sizes}


def released_way(pairs, model, sae, layer: int, folder: Path, new_tokens: int = 1) -> np.ndarray:
    """[F] shift by the released code's passes: `generate` at full depth, each prompt whole, dense
    rows of every token written. With one new token the forward passes are those of the prompts
    alone. Only the query's rows are read back.
    """
    settings = {"max_new_tokens": new_tokens, "do_sample": False, "pad_token_id": 0}
    settings |= {"output_hidden_states": True, "return_dict_in_generate": True}
    tokens, total = 0, 0
    with torch.inference_mode():
        for number, pair in enumerate(pairs):
            dense = {}
            for prompt in pair:
                ids = torch.tensor([prompt.ids], device=model.device)
                made = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
                rows = torch.cat([step[layer + 1][0] for step in made.hidden_states]).float()
                dense[prompt.condition] = saes.encode(sae, rows).cpu()
            save_file(dense, folder / f"{number}.safetensors")
            tokens += len(pair[0].query)
    for number, (plain, icl) in enumerate(pairs):
        dense = load_file(folder / f"{number}.safetensors")
        moved = dense["icl"][slice(*icl.span)] - dense["plain"][slice(*plain.span)]
        total = total + moved.square().sum(0)
    return (total / tokens).numpy()


def long_pairs(profile: Profile, length: int, sets: int, queries: int) -> list:
    """Prompts behind `sets` contexts of about so many tokens of worked examples."""
    tokenizer, examples = questions.tokenizer(profile), corpora.load("gsm-symbolic")
    asked, rest = examples[:queries], iter(examples[queries:])
    shown = []
    for _ in range(sets):
        group, size = [], 0
        while size < length:
            group.append(next(rest))
            size += len(tokenizer(f"{group[-1].query}\n{group[-1].solution}").input_ids) + 8
        shown.append(group)
    most = models.config_of(profile.model).max_position_embeddings
    return prompts.prompt_pairs(tokenizer, asked, shown, most)


def throughput(profile: Profile, rounds: int = 3) -> list[dict]:
    """Extraction over a bare model, by length of context and number of SAEs, and behind contexts of
    each query's own."""
    rows = []
    others = [run.with_sae(profile, name) for name in profile.saes[1:]]
    every = [run.hook(one) for one in (profile, *others)]
    for hooks in (every[:1], every):
        deepest = max(hook.layer for hook in hooks)
        model = models.load_truncated(profile.model, deepest, profile.dtype)
        bare = Bare(models.resolve(profile.model), deepest, profile.dtype)
        bare.seconds(2048, 512)
        goal, saes_ = (0.8, "one SAE") if len(hooks) == 1 else (0.7, f"{len(hooks)} SAEs")
        for length in (300, 1000, 2000, 6000):
            pairs = long_pairs(profile, length, sets=2, queries=32)
            name = f"extraction over a bare model, contexts of {length}, {saes_}"
            rows.append(against(bare, pairs, model, hooks, rounds, name, f"≥ {goal}"))
        if len(hooks) == 1:
            pairs = long_pairs(profile, 1000, sets=16, queries=16)
            name = f"extraction over a bare model, each query behind 1000 of its own, {saes_}"
            rows.append(against(bare, pairs, model, hooks, rounds, name, f"≥ {goal}"))
    return rows


def against(bare: Bare, pairs, model, hooks, rounds: int, name: str, goal: str) -> dict:
    """Tokens a second of extraction over those of a bare model that reads rows as long as the
    prompts; and over one that reads chunks of 512, whose attention is to few tokens."""
    tokens, length = extract.tokens_read(pairs), round(np.mean([icl.span[1] for _, icl in pairs]))
    ours, rows, chunks = [], [], []
    for _ in range(rounds):  # in turn, so that a noisy machine troubles all
        rows.append(bare.seconds(tokens, length))
        chunks.append(bare.seconds(tokens, 512))
        ours.append(seconds(lambda: extract.feature_stats(pairs, model, hooks, desc=None)))
    ours, rows, chunks = map(np.array, (ours, rows, chunks))
    what = (
        f"{len(pairs)} queries, prompts of {length} tokens, {tokens} read: "
        f"{tokens / min(ours):.0f} tokens/s; bare rows of {length}: {tokens / min(rows):.0f}; "
        f"bare chunks of 512: {tokens / min(chunks):.0f} (ratio {np.median(chunks / ours):.2f})"
    )
    return row(name, np.median(rows / ours), goal, what)


def time_to_dims(profile: Profile, queries: int, demonstrations: int, new_tokens: int = 1) -> dict:
    """Time to D_N, the released code's way over ours; 16 queries behind each set of
    demonstrations, as in `smol`."""
    more = {"demonstrations": demonstrations, "sets": max(1, queries // 16), "queries": queries}
    settings = profile.shift.model_copy(update=more)
    pairs = questions.training_pairs(profile.model_copy(update={"shift": settings}), 0)
    model, hook = run.backbone(profile), run.hook(profile)
    whole = models.load_model(profile.model, profile.dtype, profile.revision)
    shifts = {}

    def our_way() -> None:
        shifts["ours"] = shift.shift(extract.feature_stats(pairs, model, [hook])[0])

    ours = seconds(our_way)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def their_way() -> None:
            read = pairs, whole, hook.sae, profile.layer
            shifts["theirs"] = released_way(*read, folder, new_tokens)

        theirs = seconds(their_way)
        size = sum(f.stat().st_size for f in folder.iterdir())
    top = [set(np.argsort(-moved)[:100]) for moved in shifts.values()]
    context = np.mean([len(icl.context) for _, icl in pairs])
    depth = models.config_of(profile.model).num_hidden_layers
    theirs_read = sum(len(side.ids) + new_tokens - 1 for pair in pairs for side in pair) * depth
    bound = theirs_read / (extract.tokens_read(pairs) * (profile.layer + 1))
    what = (
        f"{len(pairs)} queries, {demonstrations} demonstrations ({context:.0f} tokens of context): "
        f"{ours:.1f} s and {theirs:.1f} s; {bound:.1f} times as many tokens × blocks: "
        f"{theirs / ours / bound:.2f} of that; top-100 overlap {len(top[0] & top[1])}%; dense rows "
        f"{size / 1e6:.0f} MB"
    )
    generated = f", {new_tokens} tokens generated" if new_tokens > 1 else ""
    name = f"time to D_N, released code's way over ours{generated}"
    return row(name, theirs / ours, f"≥ {0.8 * bound:.1f} (0.8 of the bound)", what)


def _peak(tokens: int, queue) -> None:
    """Peak memory (MB) of this process while it reads `tokens` query tokens through a wide SAE."""
    torch.set_num_threads(batches.cpu_threads())
    model = models.load_truncated("tiny", 1)
    sae = saes.load("random-72x", 64)  # as many features as the shipped SAE
    examples = corpora.load("gsm-symbolic")
    tokenizer = models.load_tokenizer("tiny")
    some = prompts.prompt_pairs(tokenizer, examples[:64], [examples[-2:]], 8192)
    pairs, seen = [], 0
    while seen < tokens:
        pair = some[len(pairs) % len(some)]
        pairs.append(pair)
        seen += len(pair[0].query)
    extract.feature_stats(pairs, model, [Hook(1, sae, np.inf)], tokens=2048)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(status["VmHWM"].split()[0]) / 1024  # getrusage would count the parent's memory too
    queue.put((peak, seen))


def memory_growth() -> dict:
    """Growth of peak memory from 10 k to 1 M query tokens, each in a process of its own."""
    context, peaks = multiprocessing.get_context("spawn"), []
    for tokens in (10_000, 1_000_000):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(tokens, queue))
        process.start()
        peaks.append(queue.get())
        process.join()
    (few, few_tokens), (many, many_tokens) = peaks
    released = 4 * 72 * 64 * (many_tokens - few_tokens) / 1e6
    what = (
        f"two-layer random model, {72 * 64} features, {few_tokens} and {many_tokens} tokens: "
        f"{few:.0f} and {many:.0f} MB; the released way grows by 4 bytes × features × tokens: "
        f"{released:.0f} MB a condition"
    )
    return row("peak memory growth, 10 k to 1 M tokens (MB)", many - few, "< 200", what)


def cost_measured(profile: Profile, steps: int, most: int) -> dict:
    """Prediction over the SFT and evaluation that it replaces, by time, one seed: rates measured
    on a part."""
    domains = questions.evaluation_questions(profile)
    model, hook = run.backbone(profile), run.hook(profile)

    def extraction(pairs) -> float:
        return seconds(lambda: extract.feature_stats(pairs, model, [hook]))

    train = questions.training_pairs(profile, 0)
    predicted = extraction(train[:32]) * len(train) / len(train[:32])
    some = list(domains)[::5]
    each = [extraction(questions.domain_pairs(profile, domain, 0)) for domain in some]
    predicted += sum(each) * len(domains) / len(some)
    whole = models.load_model(profile.model, profile.evaluation.dtype)
    tokenizer = questions.tokenizer(profile)
    asked = [e for group in domains.values() for e in group]
    some = asked[:: max(1, len(asked) // most)]
    evaluated = seconds(lambda: options.option_likelihoods(whole, tokenizer, some))
    evaluated *= len(asked) / len(some)
    settings = profile.sft
    pool = questions.training_examples(profile, 0)[0][: settings.examples]
    model = whole.train()
    how = settings, pool, settings.lr, 0, "SFT", steps
    trained = seconds(lambda: sft.train_answers(model, tokenizer, *how))
    trained *= settings.examples / settings.batch * settings.epochs / steps
    what = (
        f"one seed: prediction {predicted:.0f} s, SFT {trained:.0f} s, evaluation {evaluated:.0f} "
        "s (from parts)"
    )
    name = f"time of the prediction over SFT and evaluation, {profile.name}"
    return row(name, predicted / (trained + evaluated), "reported", what)


def cost_counted(profile: Profile) -> dict:
    """Prediction over the SFT and evaluation that it replaces, in FLOPs (check.estimate), of the
    central result alone."""
    central = profile.model_copy(update={"stages": notebooks.STAGES[:5]})
    hours = check.estimate(central).set_index("function").a100_hours
    predicted = (hours.train_features + hours.domain_features) * check.A100 * 3600
    replaced = (hours.finetuned + hours.performance) * check.A100 * 3600
    what = f"{predicted:.2g} of {replaced:.2g} FLOPs, {len(profile.seeds)} seeds"
    name = f"FLOPs of the prediction over SFT and evaluation, {profile.name}"
    return row(name, predicted / replaced, "< 0.01", what)


def document(machine: str, table: pd.DataFrame) -> None:
    """Write the table into docs/costs.md, between its marks."""
    page = ROOT / "docs/costs.md"
    before, start, rest = page.read_text(encoding="utf-8").partition("<!-- speed.csv -->\n")
    _, stop, after = rest.partition("<!-- end -->")
    written = table.rename(columns={"bar": "goal"}).to_markdown(index=False, floatfmt=".3g")
    text = f"{before}{start}{machine}.\n\n{written}\n{stop}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--queries", type=int, default=64)
    chosen = parser.parse_args()
    profile = config.load(chosen.profile)
    torch.set_num_threads(batches.cpu_threads())
    rows = [cost_counted(p) for p in map(config.load, config.members("paper"))]
    rows += [
        *throughput(profile),
        time_to_dims(profile, chosen.queries, profile.shift.demonstrations),
        time_to_dims(profile, chosen.queries // 4, profile.shift.demonstrations, new_tokens=64),
        time_to_dims(profile, chosen.queries // 2, 12),  # as long as two solutions of LIMO
        memory_growth(),
        cost_measured(profile, 4, 150),
    ]
    table = pd.DataFrame(rows)
    device = f"{batches.cpu_threads()} CPU threads"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    machine = f"{device}, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    machine += f", torch {torch.__version__}, {profile.dtype}, {profile.model}, {profile.sae}"
    print(machine)
    print(table.to_markdown(index=False, floatfmt=".3g"))
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.4g")
    document(machine, table)


if __name__ == "__main__":
    main()
