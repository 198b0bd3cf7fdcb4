"""What a run computes and would cost: tokens, FLOPs and GPU-hours of each kind of step."""

import os
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from sts_utils import corpora, models
from sts_utils.config import Profile
from sts_utils.control.sets import PROBE_QUESTIONS
from sts_utils.runs.features import ROLLOUTS
from sts_utils.runs.plan import Step
from sts_utils.scale import plan
from sts_utils.store import DATA

#: Dense peak of an NVIDIA A100 80 GB, FLOP/s: bfloat16, and float32 as TF32 (its data sheet).
PEAK = {"bfloat16": 312e12, "float32": 156e12}
#: Share of the peak that is assumed: a forward or training pass, and decoding token by token.
UTILISATION, DECODING = 0.4, 0.1
#: Tokens that a written answer and an option's text are assumed to have.
WRITTEN, OPTIONS = 300, 40


class Shape(NamedTuple):
    """What is needed of a model. `embeddings`: weights of the embedding and the head; `working`,
    `alone`, `grpo`: GB of a GPU that shares its fine-tuning, does it alone or does GRPO, beside
    weights, gradients and moments."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    embeddings: int
    working: float = 0.0
    alone: float = 0.0
    grpo: float = 0.0


@cache
def listed() -> dict[str, Shape]:
    """The shapes that data/models.yaml holds."""
    rows = yaml.safe_load((DATA / "models.yaml").read_text(encoding="utf-8"))
    return {name: Shape(**row["shape"]) for name, row in rows.items()}


@cache
def shape(name: str, revision: str | None = None) -> Shape:
    """The shape of model `name`: counted from its config in the mirror, else of the table, else
    from its config here. Raises ValueError for a model that is in none of them.
    """
    mirror = os.environ.get("STS_MIRROR")
    if name in listed() and not (mirror and Path(mirror, name, "config.json").exists()):
        return listed()[name]
    try:
        where = models.resolve(name)
        config = AutoConfig.from_pretrained(where, revision=revision, local_files_only=True)
    except OSError:
        lacks = "its config is neither here nor in data/models.yaml, so nothing can be planned"
        mend = "put the model in $STS_MIRROR or give a local folder"
        raise ValueError(f"model {name!r}: {lacks}; {mend}") from None
    with torch.device("meta"), models.quiet():
        model = AutoModelForCausalLM.from_config(config)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    text, embeddings = config.get_text_config(), sum(w.numel() for w in tables)
    sizes = text.num_hidden_layers, text.hidden_size, text.vocab_size
    found, known = Shape(model.num_parameters(), *sizes, embeddings), listed().get(name)
    return known if known and known[:5] == found[:5] else found  # with what only the table has


def forward_flops(
    model: Shape, tokens: float, context: float, heads: float = 0, layers: int | None = None
) -> float:
    """FLOPs of a forward pass of `tokens` tokens, each with `context` tokens before it on average.

    FLOPs = tokens × n/L × (2 × block weights + 4 × L × width × context) + 2 × width × vocabulary ×
    heads, with the first n of L blocks, and `heads` the tokens whose logits are computed. A
    multiplication and an addition are two.
    """
    blocks = model.parameters - model.embeddings
    share = (layers or model.layers) / model.layers
    attention = 4 * model.layers * model.width * context
    return tokens * share * (2 * blocks + attention) + 2 * model.width * model.vocabulary * heads


class Cost(NamedTuple):
    """Of one or several steps. `gpu_hours`: one A100's; `models`: fine-tuned ones that are kept."""

    tokens: float = 0
    flops: float = 0
    gpu_hours: float = 0
    models: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(*map(sum, zip(self, other, strict=True)))


def table(profile: Profile, whole: bool = True) -> pd.DataFrame:
    """What `plan.everything` lists, a row a kind of step: kind, steps and the fields of Cost.

    Lengths are means (corpora.yaml). SAEs (2 × width × features a token), also those that are read
    in the same pass, are under a hundredth and left out.
    """
    local = profile.model_copy(update={"executor": "local"})  # of any machine
    steps = plan.everything(local, whole)
    rows = [{"kind": step.kind, "steps": 1, **cost(step)._asdict()} for step in steps]
    return pd.DataFrame(rows).groupby("kind", sort=False, as_index=False).sum()


# --- passes through the model --------------------------------------------------------------------


def passes(
    p: Profile, dtype: str, tokens: float, context: float, heads: float = 0, times: int = 1, **more
) -> Cost:
    """`times` a pass as in `forward_flops`; `more`: layers, and rate, a share of the peak."""
    rate = more.pop("rate", UTILISATION)
    flops = times * forward_flops(shape(p.model, p.revision), tokens, context, heads, **more)
    return Cost(tokens, flops, flops / (PEAK[dtype] * rate) / 3600)


def read(p: Profile, texts: float, length: float, context: float = 0) -> Cost:
    """Texts read up to the SAE's layer, each behind `context` tokens that are cached."""
    return passes(p, p.dtype, texts * length, context + length / 2, layers=p.layer + 1)


def pairs(p: Profile, contexts: int, context: float, queries: int, length: float) -> Cost:
    """Contexts once each, their queries behind them, and the queries alone."""
    alone = read(p, queries, length)
    return read(p, contexts, context) + read(p, queries, length, context) + alone


def judge(p: Profile, answers: float, prompt: float, length: float) -> Cost:
    """The likelihood of answers behind their prompts."""
    whole = prompt + length
    return passes(p, p.evaluation.dtype, answers * whole, whole / 2, answers * length)


def write(p: Profile, answers: float, prompt: float, length: float) -> Cost:
    """Answers written a token at a time, in batches, behind prompts that are not counted."""
    tokens, context = answers * length, prompt + length / 2
    return passes(p, p.evaluation.dtype, tokens, context, tokens, rate=DECODING)


def train(p: Profile, examples: float, lengths: tuple[int, int]) -> Cost:
    """Fine-tuning on so many examples: 3 passes, 4 with gradient checkpointing."""
    length, times = min(sum(lengths), p.sft.max_length), 4 if p.sft.gradient_checkpointing else 3
    heads = examples * min(lengths[1], length)
    return passes(p, p.sft.dtype, examples * length, length / 2, heads, times)._replace(models=1)


def evaluate(p: Profile, questions: float) -> Cost:
    """The likelihood of each question's options, or answers written behind worked examples."""
    e, query = p.evaluation, lengths(p.domains)[0]
    if e.mode == "options":
        return judge(p, questions, query, OPTIONS)
    prompt = e.shots * sum(lengths(p.demonstrations)) + query
    asked = passes(p, e.dtype, questions * prompt, prompt / 2)
    return asked + write(p, questions, prompt, min(WRITTEN, e.max_new_tokens))


def solve(p: Profile, answers: float) -> Cost:
    """The likelihood of mathematics solutions and, where answers are verified, those written."""
    query, solution = lengths(p.evaluation.mathematics or p.train)
    judged = judge(p, answers, query, min(solution, p.sft.max_length - query))
    if not p.evaluation.mathematics:
        return judged
    return judged + write(p, answers, query, min(WRITTEN, p.evaluation.max_new_tokens))


# --- how much of it ------------------------------------------------------------------------------


def lengths(corpus: str) -> tuple[int, int]:
    """Mean tokens of (a question, a solution) of a corpus."""
    return corpora.entry(corpus).tokens


def asked(p: Profile, limit: int | None) -> int:
    """Questions of all domains, `limit` of each at most."""
    sizes = corpora.entry(p.domains).questions.values()
    return sum(min(n, p.evaluation.questions, limit or n) for n in sizes)


def pool(p: Profile, wanted: int) -> int:
    """Training examples: those wanted, or all that are not held out."""
    known = sum(corpora.entry(p.train).questions.values())
    return min(wanted, int((1 - p.shift.held_out) * known)) if known else wanted


def cost(step: Step) -> Cost:
    """The cost of one step. Raises ValueError for a kind that has none."""
    p, *rest = step.args
    query, solution = lengths(p.train)
    domain, solved = lengths(p.domains)[0], min(solution, p.sft.max_length - query)
    e, g, epochs = p.evaluation, p.grpo, p.sft.epochs
    match step.kind.partition(" on ")[0]:
        case "features of the training set (D_N)":
            shown = p.shift.demonstrations * (query + solution)
            return pairs(p, p.shift.sets, shown, p.shift.queries, query)
        case "features of the domains (STS)":
            shown = p.sts.demonstrations * sum(lengths(p.demonstrations))
            return pairs(p, 1, shown, p.sts.queries, domain)
        case "domains after SFT":
            return read(p, p.sts.queries, domain)
        case "actual shift":
            return read(p, 2 * p.shift.queries, query)
        case "labels":  # each text read twice: by the SAE, and by the model as a judge
            return judge(p, 6 * p.labels.samples, p.labels.tokens, 0)
        case "evaluation":
            return evaluate(p, asked(p, e.asked if rest else None))
        case "held-out solutions":
            return judge(p, e.held_out, query, solved)
        case "zeroing features":  # none; shifted, random and active ones
            choices = 1 + len(p.ablation.counts) * (1 + 2 * p.ablation.draws)
            return solve(p, choices * p.ablation.questions)
        case "mixture answers":
            return write(p, 2 * p.mixture.extra, domain, p.mixture.answer_tokens)
        case "fine-tuning (SFT)" | "fine-tuning":
            own, mixed = pool(p, p.sft.examples), pool(p, p.mixture.examples) + p.mixture.extra
            examples = mixed if step.kind == "fine-tuning on mixtures" else own
            return train(p, epochs * examples, lengths(p.train))
        case "evaluation of mixtures":
            return solve(p, e.held_out) + evaluate(p, 2 * p.mixture.questions)
        case "selective fine-tuning":
            maps = train(p, epochs * pool(p, p.selective.examples), lengths(p.train))
            return maps._replace(models=0) + solve(p, e.held_out)
        case "GRPO":
            samples, prompt = g.steps * g.prompts * g.generations, lengths(g.train)[0]
            seen, context = samples * g.completion_tokens, prompt + g.completion_tokens / 2
            updates = passes(p, g.dtype, seen, context, seen, times=3)._replace(models=1)
            return updates + write(p, samples, prompt, g.completion_tokens)
        case "GRPO accuracy" | "rollouts":
            answers = ROLLOUTS if step.kind == "rollouts" else 2 * e.held_out
            return write(p, answers, lengths(g.train)[0], g.completion_tokens)
        case "right and wrong answers":
            return control_contexts(p, kinds=2)
        case "gradients of the domains":
            return control_gradients(p)
        case "control, training sets":
            short = control_change(p, 1 / 20, PROBE_QUESTIONS)
            short += control_change(p, 1 / 10, PROBE_QUESTIONS)
            read_ = control_contexts(p, kinds=4)  # at both places, with right and wrong answers
            return control_change(p) + short + read_ + control_gradients(p)
    raise ValueError(f"scale/cost.py has no cost of {step.kind!r}, like {step.name!r}")


def control_change(p: Profile, share: float = 1, questions: int | None = None) -> Cost:
    """Fine-tuning on a share of a training set of the control, and its evaluation."""
    part = p.control.part
    tuned = train(p, share * part.examples * part.epochs, (lengths(p.domains)[0], OPTIONS))
    return tuned._replace(models=0) + evaluate(p, asked(p, questions))


def control_contexts(p: Profile, kinds: int) -> Cost:
    """A set's or a domain's questions under so many kinds of context."""
    c, query = p.control, lengths(p.domains)[0]
    shown = c.demonstrations * (query + OPTIONS)
    return pairs(p, kinds * c.contexts, shown, kinds * c.part.queries, query)


def control_gradients(p: Profile) -> Cost:
    """Questions with their options, forward and, twice, back to the SAE's layer."""
    return judge(p, 3 * p.control.part.queries, lengths(p.domains)[0], OPTIONS)
