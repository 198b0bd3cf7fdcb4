"""What a run computes and would cost: tokens, FLOPs and GPU-hours of each kind of step."""

from collections.abc import Callable, Iterable
from functools import cache
from typing import NamedTuple

import pandas as pd
import torch
import yaml
from transformers import AutoConfig, AutoModelForCausalLM

from sts_utils import corpora, models
from sts_utils.config import Profile
from sts_utils.control.sets import CONTEXTS, full_steps, probe_steps
from sts_utils.experiments.fig5 import MIXTURES
from sts_utils.runs.features import ROLLOUTS
from sts_utils.runs.plan import Step
from sts_utils.scale import plan
from sts_utils.store import CACHE, DATA

#: Dense peak of an NVIDIA A100 80 GB, FLOP/s: bfloat16, and float32 as TF32 (its data sheet).
PEAK = {"bfloat16": 312e12, "float32": 156e12}
#: Share of the peak that is assumed: a forward or training pass, and decoding token by token.
UTILISATION, DECODING = 0.4, 0.1
#: Tokens that a written answer and an option's text are assumed to have.
WRITTEN, OPTIONS = 300, 40


class Shape(NamedTuple):
    """What the formula needs of a model. `embeddings`: weights of the embedding and the head."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    embeddings: int


@cache
def listed() -> dict[str, Shape]:
    """The shapes that data/models.yaml holds."""
    rows = yaml.safe_load((DATA / "models.yaml").read_text(encoding="utf-8"))
    return {name: Shape(**row["shape"]) for name, row in rows.items()}


@cache
def shape(profile: Profile) -> tuple[Shape, str]:
    """(the model's shape, where it is from): its config, here or in the mirror, or the table.

    Raises ValueError for a model that is in none of them.
    """
    name = profile.model
    folder = CACHE / "models" / name if name in (*models.PACKAGED, *models.RANDOM) else None
    where, only = folder or models.resolve(name), {"local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(where, revision=profile.revision, **only)
    except OSError:
        if name in listed():
            return listed()[name], "from data/models.yaml"
        raise ValueError(
            f"model {name!r}: its config is neither here nor in data/models.yaml, so nothing can "
            "be planned; put the model in $STS_MIRROR or give a local folder"
        ) from None
    with torch.device("meta"), models.quiet():
        model = AutoModelForCausalLM.from_config(config)
    tables = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    text, weights = config.get_text_config(), sum(p.numel() for p in model.parameters())
    sizes = text.num_hidden_layers, text.hidden_size, text.vocab_size
    return Shape(weights, *sizes, sum(w.numel() for w in tables)), "from its config"


def forward_flops(
    model: Shape, tokens: float, context: float, layers: int | None = None, heads: float = 0
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


def total(costs: Iterable[Cost]) -> Cost:
    """Costs added up."""
    return Cost(*map(sum, zip(*costs, strict=True)))


def table(profile: Profile, whole: bool = True) -> pd.DataFrame:
    """What `plan.everything` lists, a row a kind of step: kind, steps and the fields of Cost.

    Lengths are means (corpora.yaml). SAEs (2 × width × features a token), also those that are read
    in the same pass, are under a hundredth and left out.
    """
    kinds, local = {}, profile.model_copy(update={"executor": "local"})  # of any machine
    for step in plan.everything(local, whole):
        kinds.setdefault(step.kind, []).append(cost(step))
    rows = [{"kind": kind, "steps": len(of), **total(of)._asdict()} for kind, of in kinds.items()]
    return pd.DataFrame(rows)


def cost(step: Step) -> Cost:
    """The cost of one step. Raises ValueError for a kind that COSTS does not know."""
    of = COSTS.get(step.kind) or COSTS.get(step.kind.partition(" on ")[0])
    if of is None:
        raise ValueError(f"scale/cost.py has no cost of {step.kind!r}, like {step.name!r}")
    return of(*step.args)


# --- passes through the model --------------------------------------------------------------------


def passes(
    p: Profile, dtype: str, tokens: float, context: float, heads: float = 0, times: int = 1, **more
) -> Cost:
    """`times` a pass as in `forward_flops`; `more`: layers, and rate, a share of the peak."""
    rate = more.pop("rate", UTILISATION)
    flops = times * forward_flops(shape(p)[0], tokens, context, heads=heads, **more)
    return Cost(tokens, flops, flops / (PEAK[dtype] * rate) / 3600)


def read(p: Profile, tokens: float, context: float) -> Cost:
    """A pass up to the SAE's layer."""
    return passes(p, p.dtype, tokens, context, layers=p.layer + 1)


def plain(p: Profile, queries: int, corpus: str) -> Cost:
    """A corpus's questions, read alone."""
    query, _ = lengths(corpus)
    return read(p, queries * query, query / 2)


def pairs(p: Profile, contexts: int, context: float, queries: int, length: float) -> Cost:
    """Contexts once each, their queries behind them, and the queries alone."""
    asked = queries * length
    shown = read(p, contexts * context, context / 2)
    return total([shown, read(p, asked, context + length / 2), read(p, asked, length / 2)])


def write(p: Profile, answers: float, prompt: float, length: float) -> Cost:
    """Answers written a token at a time, in batches, behind prompts that are not counted."""
    tokens, context = answers * length, prompt + length / 2
    return passes(p, p.evaluation.dtype, tokens, context, tokens, rate=DECODING)


def completions(p: Profile, answers: int) -> Cost:
    """Answers written to questions of reinforcement learning."""
    return write(p, answers, lengths(p.grpo.train)[0], p.grpo.completion_tokens)


def train(p: Profile, examples: float, corpus: tuple[int, int]) -> Cost:
    """Fine-tuning on so many examples, of a corpus's lengths: 3 passes, 4 with checkpointing."""
    length, dtype = min(sum(corpus), p.sft.max_length), p.sft.dtype
    times = 4 if p.sft.gradient_checkpointing else 3
    heads = examples * min(corpus[1], length)
    return passes(p, dtype, examples * length, length / 2, heads, times)._replace(models=1)


def sft(p: Profile, examples: int) -> Cost:
    """Fine-tuning on examples of the training set's lengths, every epoch."""
    return train(p, p.sft.epochs * examples, lengths(p.train))


def solutions(p: Profile, examples: int) -> Cost:
    """The likelihood of training-set solutions."""
    length, dtype = min(sum(lengths(p.train)), p.sft.max_length), p.evaluation.dtype
    return passes(p, dtype, examples * length, length / 2, examples * lengths(p.train)[1])


def answers(p: Profile, questions: float) -> Cost:
    """An evaluation: the likelihood of options, or answers written behind worked shots."""
    e, (query, _) = p.evaluation, lengths(p.domains)
    if e.mode == "options":
        return passes(p, e.dtype, questions * (query + OPTIONS), query, questions * OPTIONS)
    prompt = e.shots * sum(lengths(p.demonstrations)) + query
    asked = passes(p, e.dtype, questions * prompt, prompt / 2)
    return total([asked, write(p, questions, prompt, min(WRITTEN, e.max_new_tokens))])


def lengths(corpus: str) -> tuple[int, int]:
    """Mean tokens of (a question, a solution) of a corpus."""
    return corpora.entry(corpus).tokens


def control_lengths(p: Profile, name: str) -> tuple[int, int]:
    """Lengths of a training set of the control: a corpus, or a domain's questions and options."""
    return lengths(name) if name in corpora.names() else (lengths(p.domains)[0], OPTIONS)


def asked(p: Profile, limit: int | None) -> int:
    """Questions of all domains, `limit` of each at most."""
    sizes = corpora.entry(p.domains).questions.values()
    return sum(min(n, p.evaluation.questions, limit or n) for n in sizes)


def pool(p: Profile, wanted: int) -> int:
    """Training examples: those wanted, or all that are not held out."""
    known = sum(corpora.entry(p.train).questions.values())
    return min(wanted, int((1 - p.shift.held_out) * known)) if known else wanted


# --- kinds of steps: functions of a step's own arguments -----------------------------------------


def _training_set(p: Profile, *_) -> Cost:
    s, (query, solution) = p.shift, lengths(p.train)
    return pairs(p, s.sets, s.demonstrations * (query + solution), s.queries, query)


def _domain(p: Profile, *_) -> Cost:
    shown = p.sts.demonstrations * sum(lengths(p.demonstrations))
    return pairs(p, 1, shown, p.sts.queries, lengths(p.domains)[0])


def _mixtures_evaluated(p: Profile) -> Cost:
    asked = answers(p, 2 * p.mixture.questions * (1 + len(MIXTURES)))
    return total([asked, solutions(p, p.evaluation.held_out * len(MIXTURES))])


def _selective(p: Profile, *_) -> Cost:
    maps = sft(p, pool(p, p.selective.examples))._replace(models=0)
    return total([maps, solutions(p, p.evaluation.held_out)])


def _zeroing(p: Profile) -> Cost:
    a = p.ablation
    choices = 1 + len(a.counts) * (1 + 2 * a.draws)  # none; shifted, random and active ones
    return solutions(p, choices * a.questions)


def _grpo(p: Profile) -> Cost:
    g, (query, _) = p.grpo, lengths(p.grpo.train)
    samples, length = g.steps * g.prompts * g.generations, g.completion_tokens
    seen, context = samples * length, query + length / 2
    updates = passes(p, g.dtype, seen, context, seen, 3)._replace(models=1)
    return total([completions(p, samples), updates])


def _change(p: Profile, name: str, seed: int, steps: int = 0, questions: int | None = None) -> Cost:
    c = p.control
    examples = c.examples * c.epochs * (steps / full_steps(c) if steps else 1)
    tuned = train(p, examples, control_lengths(p, name))
    return total([tuned, answers(p, asked(p, questions or c.asked))])


def _contexts(p: Profile, name: str, seed: int, count: int = 0) -> Cost:
    c, (query, solution) = p.control, control_lengths(p, name)
    shown = (count or c.demonstrations) * (query + solution)
    return total([pairs(p, c.contexts, shown, c.queries, query)] * len(CONTEXTS))


def _cell(p: Profile, name: str, seed: int) -> Cost:
    c, (query, _) = p.control, control_lengths(p, name)
    probe = _change(p, name, seed, probe_steps(c), c.probe_questions)
    actual = read(p, 2 * c.queries * query, query / 2)
    return total([_change(p, name, seed), probe, _contexts(p, name, seed), actual])


COSTS: dict[str, Callable[..., Cost]] = {
    "features of the training set (D_N)": _training_set,
    "features of the domains (STS)": _domain,
    "domains after SFT": lambda p, *_: plain(p, p.sts.queries, p.domains),
    "actual shift": lambda p, *_: plain(p, 2 * p.shift.queries, p.train),
    "fine-tuning (SFT)": lambda p, *_: sft(p, pool(p, p.sft.examples)),
    "fine-tuning": lambda p, *_: sft(p, pool(p, p.sft.examples)),
    "fine-tuning on mixtures": lambda p, *_: sft(p, pool(p, p.mixture.examples) + p.mixture.extra),
    "selective fine-tuning": _selective,
    "evaluation": lambda p, *tuned: answers(p, asked(p, p.evaluation.asked if tuned else None)),
    "evaluation of mixtures": _mixtures_evaluated,
    "held-out solutions": lambda p, *tuned: solutions(p, p.evaluation.held_out),
    "mixture answers": lambda p: write(
        p, 2 * p.mixture.extra, lengths(p.domains)[0], p.mixture.answer_tokens
    ),
    "zeroing features": _zeroing,
    "GRPO": _grpo,
    "GRPO accuracy": lambda p: completions(p, 2 * p.evaluation.held_out),
    "rollouts": lambda p: completions(p, ROLLOUTS),
    "labels": lambda p: passes(
        p, p.evaluation.dtype, 6 * p.labels.samples * p.labels.tokens, p.labels.tokens / 2
    ),
    "control, training sets": _cell,
    "control, doses": _change,
    "control, contexts": _contexts,
}
