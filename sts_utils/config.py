"""Profile: what one run is. A YAML file in `profiles/`, checked by pydantic."""

import difflib
import os
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PositiveInt, ValidationError

from sts_utils import batches
from sts_utils.store import ROOT

Precision = Annotated[Literal["float32", "bfloat16"], BeforeValidator(batches.precision)]
AUTO = Field("auto", validate_default=True)  # what this machine computes faster


class Section(BaseModel):
    """A part of a profile: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ShiftSettings(Section):
    """Step 1, shifted dimensions (the paper: two demonstrations, 20,000 tokens)."""

    demonstrations: PositiveInt = 2  # training examples in context before each query
    sets: PositiveInt = 8  # different sets of demonstrations; queries take them in turn
    queries: PositiveInt = 200  # training questions, read with and without demonstrations
    held_out: float = Field(0.2, gt=0, lt=1)  # of the training set's groups, kept out of SFT
    generated_tokens: int = Field(64, ge=0)  # after each prompt, as released (alignment: stream)
    stream_rows: PositiveInt = 10_000  # rows compared (alignment: stream)


class StsSettings(Section):
    """Step 2, scores of the downstream domains (the paper: five demonstrations, 10,000 tokens)."""

    demonstrations: PositiveInt = 5  # chain-of-thought demonstrations of the domain
    queries: PositiveInt = 32  # questions a domain and seed


class SftSettings(Section):
    """Fine-tuning; optimizer and schedule are the paper's (training/sft.py)."""

    examples: PositiveInt = 320
    epochs: PositiveInt = 1
    batch: PositiveInt = 8
    micro_batch: PositiveInt = 8
    lr: float = Field(2e-5, gt=0)
    max_length: PositiveInt = 1024
    dtype: Precision = AUTO  # of forward and backward pass; updates are float32
    gradient_checkpointing: bool = False


class EvaluationSettings(Section):
    """Performance before and after fine-tuning; scores are correlated with `measure`'s change."""

    questions: int = Field(50, ge=2)  # a domain (fewer where it has fewer); halves are compared
    asked: PositiveInt | None = None  # of these, of a fine-tuned model (all if left out)
    held_out: PositiveInt = 48  # of the training set, to see that fine-tuning taught it
    dtype: Precision = AUTO
    measure: Literal["gold_probability", "gold_loglik", "gold_log_odds", "accuracy"] = "gold_loglik"
    mode: Literal["options", "generation"] = "options"  # their likelihood, or a chain of thought
    shots: int = Field(5, ge=0)  # demonstrations before each question (from here on: generation)
    max_new_tokens: PositiveInt = 2048  # length at which an answer is cut off
    rule: Literal["official", "strict"] = "official"  # MMLU-Pro's, or lm-eval's pattern
    mathematics: str | None = None  # corpus of written, verified answers (Fig 1b, 5, 7); likelihood


class DomainSet(Section):
    """A second set of domains, for Fig 3 and Tables 2–4, 6 and 9."""

    domains: str
    demonstrations: str


class SweepSettings(Section):
    """Fig 4a–c: SAEs by name; each one's layer, width and L0 are read from it."""

    widths: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()  # selective fine-tuning (Fig 7) acts at these layers too
    sparsities: tuple[str, ...] = ()


class AblationSettings(Section):
    """Fig 1b: mathematics performance with features zeroed."""

    counts: tuple[PositiveInt, ...] = (10, 30, 100, 300, 1000)
    draws: PositiveInt = 3  # random sets of features a count
    questions: PositiveInt = 32


class MixtureSettings(Section):
    """Fig 5, Table 10 (the paper: 220 extra examples beside LIMO's 817)."""

    examples: PositiveInt = 128  # of the training set
    extra: PositiveInt = 48  # from the domains of highest and lowest STS_ICL together
    answer_tokens: PositiveInt = 96  # length of the untouched model's sampled answers
    questions: PositiveInt = 100  # test questions a domain, at most


class SelectiveSettings(Section):
    """Fig 7, Table 11 (the paper: 1000 and 3000 of 28,672 features at five layers)."""

    dims: tuple[PositiveInt, ...] = (80, 240)
    draws: PositiveInt = 2  # random sets of features a size
    examples: PositiveInt = 128
    lr: float = Field(1e-3, gt=0)


class GrpoSettings(Section):
    """Fig 6: reinforcement learning on verifiable mathematics, and SFT with its steps and lr."""

    train: str = "chain-sum"  # corpus with solutions and answers that can be checked
    steps: PositiveInt = 16
    prompts: PositiveInt = 4  # questions a step
    generations: int = Field(8, ge=2)  # completions a question
    completion_tokens: PositiveInt = 96
    lr: float = Field(1e-5, gt=0)
    temperature: float = Field(1.0, gt=0)
    dtype: Precision = AUTO


class LabelSettings(Section):
    """Tables 7 and 8: what kind of text drives a feature."""

    code: str = "code-io"
    dialogue: str = "mts-dialog"
    samples: PositiveInt = 90  # texts of each of the three kinds; mathematics is the training set
    tokens: PositiveInt = 128  # length of a text, at most
    top: PositiveInt = 10  # highest-activating samples that vote


class ControlPart(DomainSet):
    """Training sets × domains, with settings of its own: `name` is design or judgement."""

    name: str
    sets: tuple[str, ...] = ()  # domains (their questions that are not asked)
    seeds: tuple[int, ...] = (0,)
    examples: PositiveInt = 64  # of each training set: the same number, the same dose
    epochs: PositiveInt = 3
    queries: PositiveInt = 32  # read of a set and of a domain
    questions: PositiveInt = 36  # a domain, on which performance is measured


class ControlSettings(Section):
    """The positive control: does a score see what was trained on?"""

    parts: tuple[ControlPart, ...] = ()
    batch: PositiveInt = 8
    lr: float = Field(1e-4, gt=0)
    demonstrations: PositiveInt = 5
    contexts: PositiveInt = 4  # sets of demonstrations, in turn
    part: ControlPart | None = None  # the one that is run (control/sets.py)


class Profile(Section):
    """One run: the model, its SAE, the corpora and the sizes."""

    name: str
    about: str  # one sentence, shown by `make help`
    model: str  # a packaged model, a local folder, or a hub name (looked up in $STS_MIRROR first)
    revision: str | None = None
    layer: int = Field(ge=0)  # the residual stream after this block is what the SAE reads
    sae: str  # a folder of the project, or "release/sae_id" of sae-lens
    dtype: Precision = "float32"  # of the forward pass; features are float32, sums float64
    engine: Literal["transformers", "vllm", "auto"] = "transformers"  # extraction and generation
    shown: Literal["ground_truth", "rollouts"] = "ground_truth"  # or own verified answers, in D_N
    executor: Literal["local", "ray", "auto"] = "auto"  # steps: in this process, or over Ray
    launcher: str | None = None  # an accelerate config: SFT runs over its processes
    train: str  # training corpus (data/corpora.yaml)
    domains: str  # corpus of the downstream domains' questions
    demonstrations: str  # corpus of the domains' chain-of-thought demonstrations
    also: DomainSet | None = None  # a second set of domains
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1)  # each once
    top_n: PositiveInt = 100  # N of D_N
    definition: Literal["paper", "released_code"] = "paper"
    alignment: Literal["query", "stream"] = "query"
    place: Literal["query", "answer"] = "query"  # tokens read: the query's, or those behind it
    shift: ShiftSettings = ShiftSettings()
    sts: StsSettings = StsSettings()
    sft: SftSettings = SftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    others: tuple[str, ...] = ()  # Table 1: further training sets, with the first seed
    others_examples: PositiveInt = 128  # of each
    others_questions: PositiveInt | None = None  # a domain, asked of their and Fig 6's models
    sweep: SweepSettings = SweepSettings()
    ablation: AblationSettings = AblationSettings()
    mixture: MixtureSettings = MixtureSettings()
    selective: SelectiveSettings = SelectiveSettings()
    grpo: GrpoSettings = GrpoSettings()
    labels: LabelSettings = LabelSettings()
    control: ControlSettings = ControlSettings()
    stages: tuple[str, ...] = ()  # the notebooks that `reproduce` runs; all of them if left out

    @property
    def saes(self) -> tuple[str, ...]:
        """Every SAE that the run reads, its own first."""
        s = self.sweep
        return tuple(dict.fromkeys((self.sae, *s.widths, *s.layers, *s.sparsities)))

    @property
    def runs_paper(self) -> bool:
        """Whether the paper's own experiments are part of the run."""
        return not self.stages or bool(set(self.stages) - {"16_control"})

    @property
    def runs_control(self) -> bool:
        """Whether the positive control is part of the run."""
        return bool(self.control.parts) and (not self.stages or "16_control" in self.stages)


def names() -> list[str]:
    """The profiles at hand, without those that stand for several."""
    return sorted({p.stem for p in (ROOT / "profiles").glob("*.yaml")} - groups().keys())


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Profiles that stand for several (a YAML with `profiles: [...]`), and which."""
    texts = {p.stem: f"\n{p.read_text('utf-8')}" for p in (ROOT / "profiles").glob("*.yaml")}
    return {n: tuple(yaml.safe_load(t)["profiles"]) for n, t in texts.items() if "\nprofiles:" in t}


def load_all(name: str, seeds: str | tuple[int, ...] | None = None) -> list[Profile]:
    """The profiles that `name` stands for: several for one like `paper`, itself for a plain one."""
    return [load(member, seeds) for member in groups().get(name, (name,))]


def load(name: str, seeds: str | tuple[int, ...] | None = None) -> Profile:
    """The profile `name` (or a YAML file's path) over its `base`; other seeds ("0,1") go into its
    name. Raises ValueError, in one line, for an unknown profile, base, key or value."""
    path, title, values = _path(name), _path(name).stem, _values(name)
    # of `make reproduce ENGINE=vllm EXECUTOR=ray`
    values |= {k: v for k in ("engine", "executor") if (v := os.environ.get(f"STS_{k.upper()}"))}
    if seeds:
        given = seeds.split(",") if isinstance(seeds, str) else seeds
        if not all(re.fullmatch(r"\s*\d+\s*", str(seed)) for seed in given):
            raise ValueError(f"SEEDS={seeds!r}: give whole numbers, like SEEDS=0,1,2")
        asked = [int(seed) for seed in given]
        if asked != values.get("seeds", [0, 1, 2]):  # beside the profile's own results
            title += f"-seeds-{'-'.join(map(str, asked))}"
        values["seeds"] = asked
    try:
        profile = Profile(name=title, **values)
    except (ValidationError, TypeError) as error:
        raise ValueError(f"profile {path.name}: {_first(error)}") from None
    if profile.evaluation.mode == "generation" and profile.evaluation.measure != "accuracy":
        raise ValueError("mode: generation measures accuracy alone; set measure: accuracy")
    return profile


def _path(name: str) -> Path:
    return Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"


def _values(name: str, above: tuple[str, ...] = ()) -> dict:
    """The keys of a profile, over those of its base; `above`: the profiles that have it as base."""
    path = _path(name)
    if name in above:
        raise ValueError(f"profile {name!r} is its own base: {' -> '.join([*above, name])}")
    if name in groups():
        raise ValueError(f"profile {name!r} stands for several: choose one of {groups()[name]}")
    if not path.exists():
        known = sorted([*names(), *groups()])
        what = f"profile {above[-1]!r} has an unknown base" if above else "unknown profile"
        raise ValueError(f"{what} {name!r}{nearest(name, known)}: choose from {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} is not a list of `key: value` lines")
    bases = values.pop("base", None) or []
    for base in reversed(bases if isinstance(bases, list) else [bases]):  # later ones lie above
        values = _over(values, _values(str(base), (*above, name)))
    return values


def _over(values: dict, base: dict) -> dict:
    """`values` laid over `base`, section by section; a list replaces a list."""
    both = [k for k in values if isinstance(values[k], dict) and isinstance(base.get(k), dict)]
    return base | values | {k: _over(values[k], base[k]) for k in both}


def _first(error: ValidationError | TypeError) -> str:
    """The first complaint, in one line; a TypeError is of a key that is no name."""
    if isinstance(error, TypeError):
        return str(error)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        sections = {name: of.annotation for name, of in Profile.model_fields.items()}
        sections |= {"also": DomainSet, "parts": ControlPart, None: Profile}
        *_, above, key = (None, *(part for part in first["loc"] if isinstance(part, str)))
        return f"unknown key {where!r}{nearest(key, list(sections[above].model_fields))}"
    got = "" if first["type"] == "missing" else f" (it is {first['input']!r})"
    return f"{where}: {first['msg'].lower()}{got}"


def nearest(word: str, known: list[str]) -> str:
    """What was perhaps meant by a misspelt word: " (did you mean …?)", or nothing."""
    close = difflib.get_close_matches(word, known, 1, 0.3)
    return "".join(f" (did you mean {near!r}?)" for near in close)
