"""What the method costs: each figure a ratio of two things measured side by side in this run.

`make bench` (or `python benchmarks/speed.py --profile smol`) prints the table and writes benchmarks/speed.csv.
"""

import argparse
import gc
import multiprocessing
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from safetensors.torch import load_file, save_file

from sts_utils import config, models, saes
from sts_utils.config import Profile
from sts_utils.corpora import data
from sts_utils.evaluation import options as evaluate
from sts_utils.method import extract, prompts, shift
from sts_utils.method.extract import Tap
from sts_utils.runs import samples, units
from sts_utils.scale import check
from sts_utils.training import sft as finetune


def seconds(function) -> float:
    gc.collect()
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def row(measure: str, value: float, bar: str, sizes: str) -> dict:
    return {"measure": measure, "value": value, "bar": bar, "sizes": sizes}


def bare_forward(pairs, model, layer: int) -> None:
    """The forward pass of the tokens that extraction reads, contexts once, and nothing else."""
    groups = {}
    for index, (a, b) in enumerate(pairs):
        groups.setdefault((a.context, b.context), []).append(index)
    with torch.inference_mode():
        for contexts, members in groups.items():
            caches = [extract.context_cache(model, context) for context in contexts]
            tokens = extract.batch_tokens()
            held = extract.cached_tokens(model, tokens)
            for batch in extract._batches(members, pairs, max(map(len, contexts)), tokens, held):
                for cache in caches:
                    extract.query_residuals(model, cache, [pairs[i][0].query for i in batch], [layer])


def released_way(pairs, model, sae, layer: int, folder: Path, new_tokens: int = 1) -> np.ndarray:
    """[F] shift by the released code's passes: `generate` at full depth, each prompt whole, dense rows of every token
    written. With one new token the forward passes are those of the prompts alone. Only the query's rows are read back.
    """
    settings = {"do_sample": False, "output_hidden_states": True, "return_dict_in_generate": True, "pad_token_id": 0}
    tokens, total = 0, 0
    with torch.inference_mode():
        for number, pair in enumerate(pairs):
            dense = {}
            for prompt in pair:
                ids = torch.tensor([prompt.ids], device=model.device)
                mask = torch.ones_like(ids)
                steps = model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens, **settings).hidden_states
                rows = torch.cat([step[layer + 1][0] for step in steps]).float()
                dense[prompt.condition] = saes.encode(sae, rows).cpu()
            save_file(dense, folder / f"{number}.safetensors")
            tokens += len(pair[0].query)
    for number, (plain, icl) in enumerate(pairs):
        dense = load_file(folder / f"{number}.safetensors")
        total = total + (dense["icl"][slice(*icl.span)] - dense["plain"][slice(*plain.span)]).square().sum(0)
    return (total / tokens).numpy()


def throughput(profile: Profile, queries: int, rounds: int = 3) -> dict:
    """Extraction over a bare truncated forward pass of the same tokens."""
    pairs = samples.training_pairs(profile, 0)[:queries]
    model, tap = units.backbone(profile), Tap(profile.layer, units.sae(profile), units.sink_norm(profile))
    ours, bare = [], []
    for _ in range(rounds):  # in turn, so that a noisy machine troubles both
        bare.append(seconds(lambda: bare_forward(pairs, model, profile.layer)))
        ours.append(seconds(lambda: extract.feature_stats(pairs, model, [tap])))
    tokens = sum(len(c) for c in {s.context for p in pairs for s in p}) + 2 * sum(len(p[0].query) for p in pairs)
    value = np.median(np.array(bare) / np.array(ours))
    what = f"{tokens} tokens, {len(pairs)} queries; {tokens / min(ours):.0f} tokens/s"
    return row("extraction throughput over a bare truncated forward pass", value, "≥ 0.90", what)


def time_to_dims(profile: Profile, queries: int, demonstrations: int, new_tokens: int = 1) -> dict:
    """Time to D_N, ours over the released code's way; 16 queries behind each set of demonstrations, as in `smol`."""
    sets = max(1, queries // 16)
    settings = profile.shift.model_copy(update={"demonstrations": demonstrations, "sets": sets, "queries": queries})
    pairs = samples.training_pairs(profile.model_copy(update={"shift": settings}), 0)
    sae, limit = units.sae(profile), units.sink_norm(profile)
    model, whole = units.backbone(profile), models.load_model(profile.model, profile.dtype, profile.revision)
    found = {}
    ours = seconds(lambda: found.update(ours=extract.feature_stats(pairs, model, [Tap(profile.layer, sae, limit)])[0]))
    with tempfile.TemporaryDirectory() as folder:
        passes = partial(released_way, pairs, whole, sae, profile.layer, Path(folder), new_tokens)
        theirs = seconds(lambda: found.update(theirs=passes()))
        size = sum(f.stat().st_size for f in Path(folder).iterdir())
    top = [set(np.argsort(-x)[:100]) for x in (shift.shift(found["ours"]), found["theirs"])]
    context = np.mean([len(icl.context) for _, icl in pairs])
    what = (
        f"{len(pairs)} queries, {demonstrations} demonstrations ({context:.0f} tokens of context): "
        f"{ours:.1f} s and {theirs:.1f} s; top-100 overlap {len(top[0] & top[1])}%; dense rows {size / 1e6:.0f} MB"
    )
    generated = f", {new_tokens} tokens generated" if new_tokens > 1 else ""
    return row(f"time to D_N, released code's way over ours{generated}", theirs / ours, "≥ 10", what)


def _peak(tokens: int, queue) -> None:
    """Peak memory (MB) of this process while it reads `tokens` query tokens of a tiny model through a wide SAE."""
    torch.set_num_threads(config.cpu_threads())
    model = models.load_truncated("tiny", 1)
    sae = saes.load("random-72x", 64)  # as many features as the shipped SAE
    examples = data.load("gsm-symbolic")
    tokenizer = samples.tokenizer("tiny")
    some = prompts.prompt_pairs(tokenizer, examples[:64], [examples[-2:]], 8192)
    pairs, seen = [], 0
    while seen < tokens:
        pair = some[len(pairs) % len(some)]
        pairs.append(pair)
        seen += len(pair[0].query)
    extract.feature_stats(pairs, model, [Tap(1, sae, np.inf)], tokens=2048)
    status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    queue.put((int(status["VmHWM"].split()[0]) / 1024, seen))  # getrusage would count the parent's memory too


def memory_growth() -> dict:
    """Growth of peak memory from 10 k to 1 M query tokens, each in a process of its own."""
    context, peaks = multiprocessing.get_context("spawn"), []
    for tokens in (10_000, 1_000_000):
        queue = context.Queue()
        process = context.Process(target=_peak, args=(tokens, queue))
        process.start()
        peaks.append(queue.get())
        process.join()
    growth = peaks[1][0] - peaks[0][0]
    released = 4 * 72 * 64 * (peaks[1][1] - peaks[0][1]) / 1e6
    what = (
        f"two-layer random model, {72 * 64} features, {peaks[0][1]} and {peaks[1][1]} tokens: {peaks[0][0]:.0f} and "
        f"{peaks[1][0]:.0f} MB; the released way grows by 4 bytes × features × tokens: {released:.0f} MB a condition"
    )
    return row("peak memory growth, 10 k to 1 M tokens (MB)", growth, "< 200", what)


def cost_measured(profile: Profile, steps: int, questions: int) -> dict:
    """Prediction over the SFT and evaluation that it replaces, by time, one seed: rates measured on a part."""
    domains = samples.evaluation_questions(profile)
    tap = Tap(profile.layer, units.sae(profile), units.sink_norm(profile))
    model = units.backbone(profile)
    predicted = 0.0
    train = samples.training_pairs(profile, 0)
    predicted += seconds(lambda: extract.feature_stats(train[:32], model, [tap])) * len(train) / len(train[:32])
    some = list(domains)[::5]
    for domain in some:
        pairs = samples.domain_pairs(profile, domain, 0)
        predicted += seconds(partial(extract.feature_stats, pairs, model, [tap])) * len(domains) / len(some)
    whole, tokenizer = models.load_model(profile.model, profile.evaluation.dtype), samples.tokenizer(profile.model)
    asked = [e for group in domains.values() for e in group]
    some = asked[:: max(1, len(asked) // questions)]
    evaluated = seconds(lambda: evaluate.performance(whole, tokenizer, some)) * len(asked) / len(some)
    whole.train()
    pool = samples.training_examples(profile, 0)[0][: profile.sft.examples]
    trained = seconds(lambda: finetune.train_answers(whole, tokenizer, profile, pool, profile.sft.lr, 0, "SFT", steps))
    trained *= profile.sft.examples / profile.sft.batch * profile.sft.epochs / steps
    what = f"one seed: prediction {predicted:.0f} s, SFT {trained:.0f} s, evaluation {evaluated:.0f} s (from parts)"
    return row(
        f"time of the prediction over SFT and evaluation, {profile.name}",
        predicted / (trained + evaluated),
        "reported",
        what,
    )


def cost_counted(profile: Profile) -> dict:
    """Prediction over the SFT and evaluation that it replaces, in FLOPs (check.plan)."""
    table = check.plan(profile).set_index("stage").flops
    predicted = table[[s for s in table.index if s.startswith("features")]].sum()
    replaced = table[[s for s in table.index if s == "fine-tuning (SFT)" or s.startswith("evaluation")]].sum()
    what = f"{predicted:.2g} of {replaced:.2g} FLOPs, {len(profile.seeds)} seeds"
    return row(f"FLOPs of the prediction over SFT and evaluation, {profile.name}", predicted / replaced, "< 0.01", what)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", default="smol")
    parser.add_argument("--queries", type=int, default=64)
    chosen = parser.parse_args()
    profile = config.load(chosen.profile)
    torch.set_num_threads(config.cpu_threads())
    rows = [cost_counted(p) for p in config.load_all("paper")]
    rows += [
        throughput(profile, chosen.queries),
        time_to_dims(profile, chosen.queries, profile.shift.demonstrations),
        time_to_dims(profile, chosen.queries // 4, profile.shift.demonstrations, new_tokens=64),
        time_to_dims(profile, chosen.queries // 2, 12),  # as long as two solutions of LIMO
        memory_growth(),
        cost_measured(profile, 4, 150),
    ]
    table = pd.DataFrame(rows)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{config.cpu_threads()} CPU threads"
    memory = psutil.virtual_memory().total / 2**30
    print(f"{device}, {memory:.0f} GiB, torch {torch.__version__}, {profile.dtype}, {profile.model}, SAE {profile.sae}")
    print(table.to_markdown(index=False, floatfmt=".3g"))
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False, float_format="%.4g")


if __name__ == "__main__":
    main()
