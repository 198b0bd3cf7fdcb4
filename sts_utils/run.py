"""What a run computes: features of the untouched model, fine-tuned models, and what they changed.

A `cached` function is computed once and read ever after. A fine-tuned model is named by a tuple
(cached function, its arguments), like (finetuned, 0); None is the untouched one."""

import gc
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache, partial
from pathlib import Path

import pandas as pd
import torch

from sts_utils import batches, corpora, evaluate, features, models, questions, saes, train, vllm
from sts_utils.cache import cached
from sts_utils.config import Profile, SftSettings
from sts_utils.features import FeatureStats, Hook
from sts_utils.generate import continued, generate
from sts_utils.prompts import Example, by_domain, chat_prompt
from sts_utils.questions import tokenizer

Model = tuple | None
MODEL = ("model", "revision")
READ = (*MODEL, "layer", "sae", "dtype", "place", "engine")
SHOWN = (*READ, "sweep", "train", "shift", "alignment")
DOMAINS = ("domains", "demonstrations", "sts", "evaluation.questions")


@lru_cache(maxsize=2)  # the untouched model and one fine-tuned one
def _backbone(name: str, revision: str | None, layer: int, dtype: str):
    torch.set_num_threads(batches.cpu_threads())
    return models.load_truncated(name, layer, dtype, revision)


def backbone(p: Profile, folder: Path | None = None):
    """The profile's model (or a fine-tuned one, of `folder`) up to the SAE's layer."""
    name, revision = (str(folder), None) if folder else (p.model, p.revision)
    return _backbone(name, revision, p.layer, p.dtype)


@cache
def _sae(sae_name: str, name: str, revision: str | None, layer: int):
    return saes.load(sae_name, models.check(name, layer, revision), layer).to(models.device())


def sae(p: Profile):
    """The profile's SAE, on the device that models run on."""
    return _sae(p.sae, p.model, p.revision, p.layer)


@cache
def _hook(sae_name: str, *model) -> Hook:
    name, revision, layer, _ = model
    read, tokenizer = _sae(sae_name, name, revision, layer), models.load_tokenizer(name, revision)
    # 16 prompts, the same for every run: what is stored of a domain serves all training sets
    shown = [chat_prompt(tokenizer, e) for e in corpora.load("gsm-symbolic", 0, 16)]
    if not saes.MADE.fullmatch(sae_name):
        ids = [list(prompt.ids) for prompt in shown]
        saes.check(read, sae_name, list(saes.activations(_backbone(*model), ids, 4096)))
    return Hook(layer, read, features.sink_norm(_backbone(*model), shown))


def hook(p: Profile) -> Hook:
    """The profile's SAE at its layer, with the norm above which rows are attention sinks; raises
    ValueError, in one line, for an SAE that is not of the model, as 16 prompts show."""
    return _hook(p.sae, p.model, p.revision, p.layer, p.dtype)


def with_sae(p: Profile, name: str) -> Profile:
    """The same run read through another SAE, at its layer."""
    return p.model_copy(update={"sae": name, "layer": saes.layer(name)})


def folder(p: Profile, model: Model) -> Path | None:
    """Where a fine-tuned model lies: trained now if it is missing."""
    return model and model[0](p, *model[1:])


def whole(p: Profile, model: Model = None):
    """The whole model to evaluate: untouched or fine-tuned."""
    torch.set_num_threads(batches.cpu_threads())
    name, revision = (str(folder(p, model)), None) if model else (p.model, p.revision)
    release()
    return models.load_model(name, p.evaluation.dtype, revision)


def release(engine: bool = True) -> None:
    """Give the GPU back before another process or a whole model needs it: cached models and SAEs,
    and vLLM's engine unless told otherwise. On a CPU those stay: loading takes time."""
    if torch.cuda.is_available():
        if engine:
            vllm.close()
        _backbone.cache_clear()
        _hook.cache_clear()
        _sae.cache_clear()
    gc.collect()  # a Trainer, with its model and optimizer, lies in a reference cycle
    torch.cuda.empty_cache()


def read(p: Profile, pairs: Sequence, desc: str | None, names: Sequence = (), after=None) -> dict:
    """SAE (of `names`, or its own) -> FeatureStats as arrays; condition b is of a model `after`."""
    read = {name: with_sae(p, name) if name != p.sae else p for name in names or [p.sae]}
    if p.alignment == "stream" and after is None:
        return {name: _stream(q, pairs).arrays() for name, q in read.items()}
    deepest, hooks = max(read.values(), key=lambda q: q.layer), [hook(q) for q in read.values()]
    if batches.engine(p.engine) == "vllm" and after is None:  # it holds one model at a time
        release(engine=False)
        where = vllm.checkpoint(p.model, p.revision)
        found = vllm.feature_stats(pairs, where, hooks, p.dtype, desc)
    else:
        other = backbone(deepest, after) if after else None
        model = backbone(deepest)
        found = features.feature_stats(pairs, model, hooks, other_model=other, desc=desc)
    return {name: stats.arrays() for name, stats in zip(read, found, strict=True)}


def _stream(p: Profile, pairs: Sequence) -> FeatureStats:
    """The released code's alignment: whole prompts with tokens generated greedily, row by row."""
    written, flat = {}, [prompt for pair in pairs for prompt in pair]
    if n := p.shift.generated_tokens:
        model, ids = models.load_model(p.model, p.dtype, p.revision), [q.ids for q in flat]
        rows = continued(model, tokenizer(p), ids, 1, do_sample=False, max_new_tokens=n)
        written = {(q.example_id, q.condition): of for q, of in zip(flat, rows, strict=True)}
    return features.stream_stats(pairs, backbone(p), hook(p), p.shift.stream_rows, written)


@cached(*SHOWN)
def train_features(p: Profile, seed: int):
    """Training questions without and with training demonstrations (for D_N), of every SAE."""
    return read(p, questions.training_pairs(p, seed), f"{p.train} seed {seed}", p.saes)


@cached(*READ, "train", "shift", "alignment")
def prose_features(p: Profile, seed: int):
    """The same training questions without and with prose in context."""
    return read(p, questions.training_pairs(p, seed, prose=True), f"prose seed {seed}")


@cached(*READ, "sweep", *DOMAINS)
def domain_features(p: Profile, domain: str, seed: int):
    """A domain's questions without and with its demonstrations (for STS), of every SAE."""
    p = p.model_copy(update={"alignment": "query"})  # that of step 1 may be another
    return read(p, questions.domain_pairs(p, domain, seed), f"{domain} seed {seed}", p.saes)


@cached(*READ, "train", "shift")
def actual_features(p: Profile, seed: int, model: Model):
    """The same plain training questions before and after fine-tuning."""
    pairs = [(plain, plain) for plain, _ in questions.training_pairs(p, seed)]
    return read(p, pairs, f"after training, seed {seed}", after=folder(p, model))


@cached(*READ, *DOMAINS)
def domain_after(p: Profile, domain: str, seed: int, model: Model) -> dict:
    """Residual stream of a domain's plain questions in the fine-tuned model (one SAE feature)."""
    pairs = [(plain, plain) for plain, _ in questions.domain_pairs(p, domain, seed)]
    tuned, desc = backbone(p, folder(p, model)), f"{domain} after SFT, seed {seed}"
    return features.feature_stats(pairs, tuned, [hook(p)], features=[0], desc=desc)[0].arrays()


@cached(*MODEL, "train", "sft", "shift.held_out", folder=True)
def finetuned(p: Profile, seed: int, *, out: Path) -> None:
    """The model after SFT on the training set."""
    sft(p, p.sft, questions.training_examples(p, seed)[0][: p.sft.examples], seed, out)


def sft(p: Profile, settings: SftSettings, examples: Sequence, seed: int, out: Path, steps=None):
    """Fine-tune the model into `out`, with its log, here or over the processes of its launcher."""
    release()
    if p.launcher:
        model = {"model": p.model, "revision": p.revision, "seed": seed, "steps": steps}
        log = train.launch(p.launcher, settings, examples, out, **model)
    else:
        log = train.sft(p.model, p.revision, settings, examples, seed, out, steps)
    log.to_parquet(out / "log.parquet", index=False)
    release()


def briefly_tuned(p: Profile, examples, lr: float, seed: int, desc: str, steps=None, lora=None):
    """The model after a quick probe, not kept: fine-tuning, of a LoRA of this rank if any, in small
    batches, with no warm-up. A step of AdamW is as long as its learning rate in any batch."""
    size = dict.fromkeys(("batch", "micro_batch"), train.QUICK_BATCH) | {"epochs": 1}
    release()
    model = models.load_model(p.model, "float32", p.revision)
    if lora:  # of each linear map, the head aside; all else is frozen
        import peft  # takes seconds

        rank = {"r": lora, "lora_alpha": 2 * lora, "target_modules": "all-linear"}
        peft.inject_adapter_in_model(peft.LoraConfig(**rank), model)
    how = p.sft.model_copy(update=size), examples, lr, seed, desc, steps
    train.train_answers(model.train(), tokenizer(p), *how, warmup=0)
    return model.eval().to(getattr(torch, p.evaluation.dtype))


def training_logs(p: Profile, trained: Mapping[object, tuple]) -> pd.DataFrame:
    """The logs of several models, a column `run` naming each."""
    logs = {name: pd.read_parquet(folder(p, m) / "log.parquet") for name, m in trained.items()}
    return pd.concat([log.assign(run=name) for name, log in logs.items()])


def grpo(p: Profile, examples: Sequence[Example], seed: int, out: Path) -> None:
    """GRPO of the profile's model into `out`, its log beside it; vLLM samples where it is used."""
    from sts_utils.grpo import grpo as learn  # TRL takes seconds to import

    release()
    settings = (p.grpo, examples, seed, out, p.sft.gradient_checkpointing)
    if batches.engine(p.engine) == "vllm":
        vllm.close()
        name = str(vllm.checkpoint(p.model, p.revision))
        weights = (numbers := models.size(name)) * getattr(torch, p.grpo.dtype).itemsize
        beside = 2 * weights  # their gradients, too
        if torch.cuda.is_available():
            beside += train.masters_beside(numbers, torch.cuda.mem_get_info()[0] - weights)
        with vllm.sampler(weights, beside) as sampling:
            log = learn(name, None, *settings, sampling)
    else:
        log = learn(p.model, p.revision, *settings)
    log.to_parquet(out / "log.parquet", index=False)
    release()


ASKED = (*MODEL, "domains", "demonstrations", "engine", "evaluation.questions", "evaluation.dtype")
ASKED += tuple(f"evaluation.{name}" for name in ("mode", "shots", "max_new_tokens", "rule"))
HELD_OUT = (*MODEL, "train", "shift.held_out", "sft.max_length")
HELD_OUT += ("evaluation.held_out", "evaluation.dtype")
SOLVED = ("evaluation.mathematics", "evaluation.max_new_tokens")


@cached(*ASKED)
def performance(p: Profile, model: Model = None, asked: int | None = None, given: tuple = ()):
    """Performance before (None) or after fine-tuning, a row a question (the profile's, at most
    `asked` of each domain, or those `given`): domain, id, and what evaluate measures."""
    groups = questions.evaluation_questions(p).values()
    chosen = given or [e for group in groups for e in group[:asked]]
    e, stop = p.evaluation, [evaluate.STOP]
    if e.mode == "options":
        desc = f"evaluate {model[0].__name__}" if model else "evaluate before"
        return evaluate.option_likelihoods(whole(p, model), tokenizer(p), chosen, desc=desc)
    if batches.engine(p.engine) == "vllm":
        where = folder(p, model) or vllm.checkpoint(p.model, p.revision)
        release()
        write = vllm.generate(where, e.max_new_tokens, e.dtype, special=True, stop=stop)
    else:
        how = {"new_tokens": e.max_new_tokens, "batch": 16, "special": True, "stop": stop}
        write = partial(generate, whole(p, model), tokenizer(p), **how)
    shots = by_domain(corpora.in_order(p.demonstrations))
    context = models.config_of(p.model, p.revision).max_position_embeddings
    return evaluate.written_accuracy(write, tokenizer(p), chosen, shots, e, context)


@cached(*HELD_OUT)
def held_out_loss(p: Profile, model: Model = None) -> pd.DataFrame:
    """Log-likelihood of held-out training-set solutions before (None) or after fine-tuning."""
    examples = questions.training_examples(p, 0)[1][: p.evaluation.held_out]
    return evaluate.solution_loglik(whole(p, model), tokenizer(p), examples, p.sft.max_length)


@cached(*HELD_OUT, *SOLVED)
def mathematics(p: Profile, model: Model = None) -> pd.DataFrame:
    """`solve` before (None) or after fine-tuning."""
    return solve(p, questions.mathematics(p, p.evaluation.held_out), whole(p, model))


def solve(p: Profile, examples: Sequence[Example], model) -> pd.DataFrame:
    """Mathematics: columns id, solution_loglik and, where answers are verified, accuracy."""
    frame = evaluate.solution_loglik(model, tokenizer(p), examples, p.sft.max_length)
    if p.evaluation.mathematics:
        from sts_utils import grpo  # TRL takes seconds to import

        tokens = p.evaluation.max_new_tokens
        frame = frame.merge(grpo.accuracy(model, tokenizer(p), examples, tokens), on="id")
    return frame


def mathematics_measure(p: Profile) -> tuple[str, str, str, str]:
    """How mathematics is measured: a column of `solve`, its name, its unit, and what it is of."""
    if corpus := p.evaluation.mathematics:
        return "accuracy", "accuracy", "share", f"verified answers to {corpus}"
    return "solution_loglik", "log-likelihood", "nats a token", "held-out training-set solutions"
