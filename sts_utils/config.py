"""Profile: what one run is. A YAML file in `profiles/`, checked by pydantic."""

# ruff: noqa: D101 (what a section is for is said behind its name)
import os
import re
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, Field, PositiveInt, ValidationError

from sts_utils import batches
from sts_utils.store import ROOT

Count = Annotated[int, Field(ge=0)]
Precision = Annotated[Literal["float32", "bfloat16"], BeforeValidator(batches.precision)]
AUTO = Field("auto", validate_default=True)  # what this machine computes faster


class Section(BaseModel, extra="forbid", frozen=True, protected_namespaces=()):
    """A part of a profile: immutable, an unknown key is an error."""


class ShiftSettings(Section):  # step 1, D_N (the paper: two demonstrations, 20,000 tokens)
    demonstrations: PositiveInt = 2  # training examples in context before each query
    sets: PositiveInt = 8  # different sets of demonstrations; queries take them in turn
    queries: PositiveInt = 200  # training questions, read with and without demonstrations
    held_out: float = Field(0.2, gt=0, lt=1)  # of the training set's groups, kept out of SFT
    generated_tokens: Count = 64  # after each prompt, as released (alignment: stream)
    stream_rows: PositiveInt = 10_000  # rows compared (alignment: stream)


class StsSettings(Section):  # step 2, scores of domains (the paper: five, 10,000 tokens)
    demonstrations: PositiveInt = 5  # chain-of-thought demonstrations of the domain
    queries: PositiveInt = 32  # questions a domain and seed
    options: bool = True  # listed with letters, as the paper's; else as the outcome asks


class SftSettings(Section):  # fine-tuning; optimizer and schedule are the paper's (train.py)
    examples: PositiveInt = 320
    epochs: PositiveInt = 1
    batch: PositiveInt = 8
    micro_batch: PositiveInt = 8
    lr: float = Field(2e-5, gt=0)
    max_length: PositiveInt = 1024
    dtype: Precision = AUTO  # of forward and backward pass; updates are float32
    gradient_checkpointing: bool = False


class EvaluationSettings(Section):  # of `measure` before and after fine-tuning
    questions: int = Field(50, ge=2)  # a domain (fewer where it has fewer); halves are compared
    asked: PositiveInt | None = None  # of these, of a fine-tuned model (all if left out)
    held_out: PositiveInt = 48  # of the training set, to see that fine-tuning taught it
    dtype: Precision = AUTO
    measure: Literal["gold_probability", "gold_loglik", "gold_log_odds", "accuracy"] = "gold_loglik"
    mode: Literal["options", "generation"] = "options"  # their likelihood, or a chain of thought
    shots: Count = 5  # demonstrations before each question (from here on: generation)
    max_new_tokens: PositiveInt = 2048  # length at which an answer is cut off
    rule: Literal["official", "strict"] = "official"  # MMLU-Pro's, or lm-eval's pattern
    mathematics: str | None = None  # corpus of written, verified answers (Fig 1b, 5, 7); likelihood


class TrainingSet(Section):  # Table 1, matrix, control: what differs from the main training set
    train: str  # a corpus, "corpus/domain", or "corpus/*" for a set of each of its domains
    domains: str | None = None  # that are asked, and their demonstrations, if others
    demonstrations: str | None = None
    examples: PositiveInt = 128
    batch: PositiveInt = 8
    lr: float | None = Field(None, gt=0)  # that of sft if left out
    seeds: PositiveInt = 1  # the profile's first ones


class SweepSettings(Section):  # Fig 4a–c: SAEs, which say their layer, width and L0
    widths: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()  # selective fine-tuning (Fig 7) acts at these layers too
    sparsities: tuple[str, ...] = ()


class AblationSettings(Section):  # Fig 1b: mathematics performance with features zeroed
    counts: tuple[PositiveInt, ...] = (10, 30, 100, 300, 1000)
    draws: PositiveInt = 3  # random sets of features a count
    questions: PositiveInt = 32


class MixtureSettings(Section):  # Fig 5, Table 10 (the paper: 220 beside LIMO's 817)
    examples: PositiveInt = 128  # of the training set
    extra: PositiveInt = 48  # from the domains of highest and lowest STS_ICL together
    answer_tokens: PositiveInt = 96  # length of the untouched model's sampled answers
    questions: PositiveInt = 100  # test questions a domain, at most


class SelectiveSettings(Section):  # Fig 7, Table 11 (the paper: 1000 and 3000 of 28,672)
    dims: tuple[PositiveInt, ...] = (80, 240)
    draws: PositiveInt = 2  # random sets of features a size
    examples: PositiveInt = 128
    lr: float = Field(1e-3, gt=0)


class GrpoSettings(Section):  # Fig 6: on verifiable mathematics, and SFT with its steps and lr
    train: str = "chain-sum"  # corpus with solutions and answers that can be checked
    steps: PositiveInt = 16
    prompts: PositiveInt = 4  # questions a step
    generations: int = Field(8, ge=2)  # completions a question
    completion_tokens: PositiveInt = 96
    lr: float = Field(1e-5, gt=0)
    temperature: float = Field(1.0, gt=0)
    dtype: Precision = AUTO


class LabelSettings(Section):  # Tables 7 and 8: what kind of text drives a feature
    code: str = "code-io"
    dialogue: str = "mts-dialog"
    samples: PositiveInt = 90  # texts of each of the three kinds; mathematics is the training set
    tokens: PositiveInt = 128  # length of a text, at most
    top: PositiveInt = 10  # highest-activating samples that vote


class Profile(Section):  # one run: the model, its SAE, the corpora and the sizes
    name: str
    about: str  # one sentence, shown by `make help`
    model: str  # a packaged model, a local folder, or a hub name
    revision: str | None = None
    layer: Count  # the residual stream after this block is what the SAE reads
    sae: str  # a folder of the project, or "release/sae_id" of sae-lens
    dtype: Precision = "float32"  # of the forward pass; features are float32, sums float64
    engine: Literal["transformers", "vllm", "auto"] = "transformers"  # extraction and generation
    executor: Literal["local", "ray", "auto"] = "auto"  # steps: in this process, or over Ray
    launcher: str | None = None  # an accelerate config: SFT runs over its processes
    train: str  # training corpus (data/corpora.yaml)
    domains: str  # corpus of the downstream domains' questions
    demonstrations: str  # corpus of the domains' chain-of-thought demonstrations
    seeds: tuple[Count, ...] = Field((0, 1, 2), min_length=1)  # each once
    top_n: PositiveInt = 100  # N of D_N
    definition: Literal["paper", "released_code"] = "paper"
    alignment: Literal["query", "stream"] = "query"
    place: Literal["query", "answer"] = "query"  # tokens read: the query's, or those behind it
    shift: ShiftSettings = ShiftSettings()
    sts: StsSettings = StsSettings()
    sft: SftSettings = SftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    others: tuple[TrainingSet, ...] = ()  # further training sets
    others_questions: PositiveInt | None = None  # a domain, asked of their and Fig 6's models
    sweep: SweepSettings = SweepSettings()
    ablation: AblationSettings = AblationSettings()
    mixture: MixtureSettings = MixtureSettings()
    selective: SelectiveSettings = SelectiveSettings()
    grpo: GrpoSettings = GrpoSettings()
    labels: LabelSettings = LabelSettings()
    stages: tuple[str, ...] = ()  # the notebooks that `reproduce` runs; all of them if left out

    @property
    def saes(self) -> tuple[str, ...]:  # each once: its own, those of Fig 4a–c, of selective tuning
        swept = self.sweep.widths + self.sweep.layers + self.sweep.sparsities
        return tuple(dict.fromkeys((self.sae, *swept)))


def members(name: str) -> list[str]:
    """The profiles that `name` stands for: several for a YAML of `profiles: [...]`, else itself."""
    return _read(name).get("profiles", [name])


def load(name: str, seeds: str | int | list | tuple | None = None) -> Profile:
    """The profile `name` (or a YAML file's path) over its `base`; other seeds (0, "0,1", [0, 1])
    go into its name. STS_ENGINE and STS_EXECUTOR are put over it. Raises ValueError, in one line,
    for an unknown profile, base, key or value."""
    values = _over_base(name)
    title, own = re.sub(r"\.ya?ml$", "", Path(name).name), values.get("seeds", [0, 1, 2])
    values |= {k: v for k in ("engine", "executor") if (v := os.environ.get(f"STS_{k.upper()}"))}
    if seeds not in (None, ""):
        values["seeds"] = seeds if isinstance(seeds, list | tuple) else str(seeds).split(",")
    try:
        profile = Profile.model_validate(values | {"name": title})
    except (ValidationError, TypeError) as error:  # a TypeError is of a key that is no name
        said = ": ".join(map(str.strip, str(error).splitlines()[1:3])) or error
        raise ValueError(f"profile {title}: {said}") from None
    if profile.evaluation.mode == "generation" and profile.evaluation.measure != "accuracy":
        raise ValueError("mode: generation measures accuracy alone; set measure: accuracy")
    if len({*profile.seeds}) < len(profile.seeds):
        raise ValueError(f"seeds {profile.seeds} holds one twice: give each once")
    if list(profile.seeds) != own:  # beside the profile's own results
        title += f"-seeds-{'-'.join(map(str, profile.seeds))}"
    return profile.model_copy(update={"name": title})


def _read(name: str) -> dict:
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"
    if not path.exists():
        known = sorted(other.stem for other in path.parent.glob("*.yaml"))
        raise ValueError(f"unknown profile {name!r}: choose from {', '.join(known)}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not YAML: {str(error).splitlines()[0]}") from None


def _over_base(name: str) -> dict:
    values = _read(name)
    if "profiles" in values:
        raise ValueError(f"profile {name!r} stands for several: choose one of {members(name)}")
    bases = values.pop("base", None) or []
    for base in reversed(bases if isinstance(bases, list) else [bases]):  # later ones lie above
        below = _over_base(str(base))
        both = {k: v for k, v in values.items() if type(v) is type(below.get(k)) is dict}
        values = below | values | {k: below[k] | v for k, v in both.items()}  # of sections
    return values
