"""Profile: what one run is. A YAML file in `profiles/`, checked by pydantic."""

import difflib
import os
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from sts_utils.store import ROOT


class Section(BaseModel):
    """A part of a profile: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class ShiftSettings(Section):
    """Step 1, shifted dimensions (the paper: two demonstrations, 20,000 tokens)."""

    demonstrations: PositiveInt = 2
    """Training examples in context before each query."""
    sets: PositiveInt = 8
    """Different sets of demonstrations; queries take them in turn, each is computed once."""
    queries: PositiveInt = 200
    """Training questions whose features are compared with and without demonstrations."""
    held_out: float = Field(0.2, gt=0, lt=1)
    """Share of the training set's groups kept out of SFT: the actual shift is measured there."""
    generated_tokens: int = Field(64, ge=0)
    """alignment: stream only. Tokens generated after each prompt, as the released code does."""
    stream_rows: PositiveInt = 10_000
    """alignment: stream only. Rows compared."""


class StsSettings(Section):
    """Step 2, scores of the downstream domains (the paper: five demonstrations, 10,000 tokens)."""

    demonstrations: PositiveInt = 5
    """Chain-of-thought demonstrations of the domain."""
    queries: PositiveInt = 32
    """Questions a domain and seed."""


class SftSettings(Section):
    """Fine-tuning. Optimizer and schedule are the paper's (finetune.py), the size is the profile's."""

    examples: PositiveInt = 320
    epochs: PositiveInt = 1
    batch: PositiveInt = 8
    micro_batch: PositiveInt = 8
    lr: float = Field(2e-5, gt=0)
    max_length: PositiveInt = 1024
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the forward and backward pass; updates are float32 whichever it is."""
    gradient_checkpointing: bool = False


class EvaluationSettings(Section):
    """Performance before and after fine-tuning."""

    questions: PositiveInt = 50
    """Questions a domain (fewer where a domain has fewer)."""
    asked: PositiveInt | None = None
    """Of these, how many a fine-tuned model is asked (all if left out); the untouched model is asked all."""
    held_out: PositiveInt = 48
    """Held-out questions of the training set, to see that fine-tuning taught it."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    measure: Literal["gold_probability", "gold_loglik", "accuracy"] = "gold_probability"
    """What the scores are correlated with the change of."""
    mode: Literal["options", "generation"] = "options"
    """`options`: the likelihood of each option's text. `generation`: a written chain of thought, as in the
    paper (mmlu_pro.py); `measure` must then be `accuracy`."""
    shots: int = Field(5, ge=0)
    """mode: generation only. Chain-of-thought demonstrations before each question."""
    max_new_tokens: PositiveInt = 2048
    """mode: generation only. Length at which an answer is cut off."""
    rule: Literal["official", "strict"] = "official"
    """mode: generation only. How an answer is read: MMLU-Pro's three steps and a guess, or lm-eval's pattern."""

    @model_validator(mode="after")
    def _measurable(self):
        if self.mode == "generation" and self.measure != "accuracy":
            raise ValueError("mode: generation measures accuracy alone; set measure: accuracy")
        return self


class SweepSettings(Section):
    """Fig 4a–c: SAEs by name; each one's layer, width and L0 are read from it."""

    widths: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    """Selective fine-tuning (Fig 7) acts at these layers too."""
    sparsities: tuple[str, ...] = ()


class AblationSettings(Section):
    """Fig 1b: mathematics performance with features zeroed."""

    counts: tuple[PositiveInt, ...] = (10, 30, 100, 300, 1000)
    draws: PositiveInt = 3
    """Random sets of features a count."""
    questions: PositiveInt = 32


class MixtureSettings(Section):
    """Fig 5, Table 10 (the paper: 220 extra examples beside LIMO's 817)."""

    examples: PositiveInt = 128
    """Of the training set."""
    extra: PositiveInt = 48
    """From the most and the least affected domain together."""
    answer_tokens: PositiveInt = 96
    """Length of the untouched model's sampled answers."""
    questions: PositiveInt = 100
    """Test questions a domain, at most."""


class SelectiveSettings(Section):
    """Fig 7, Table 11 (the paper: 1000 and 3000 of 28,672 features at five layers)."""

    dims: tuple[PositiveInt, ...] = (80, 240)
    draws: PositiveInt = 2
    """Random sets of features a size."""
    examples: PositiveInt = 128
    lr: float = Field(1e-3, gt=0)


class GrpoSettings(Section):
    """Fig 6: reinforcement learning on verifiable mathematics."""

    train: str = "chain-sum"
    """Corpus with ground-truth chains of thought and answers that can be checked."""
    steps: PositiveInt = 16
    prompts: PositiveInt = 4
    """Questions a step."""
    generations: int = Field(8, ge=2)
    """Completions a question."""
    completion_tokens: PositiveInt = 96
    lr: float = Field(1e-5, gt=0)
    temperature: float = Field(1.0, gt=0)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


class LabelSettings(Section):
    """Tables 7 and 8: what kind of text drives a feature."""

    code: str = "code-io"
    dialogue: str = "mts-dialog"
    samples: PositiveInt = 90
    """Texts of each of the three kinds; mathematics is the training set."""
    tokens: PositiveInt = 128
    """Length of a text, at most."""
    top: PositiveInt = 10
    """Highest-activating samples that vote."""


class ControlSettings(Section):
    """The positive control: training sets × domains (control.py). Each domain named in `sets` is trained on
    the questions of it that are not evaluated; any other name is a corpus."""

    sets: tuple[str, ...] = ()
    examples: PositiveInt = 64
    """Of each training set: the same number, the same dose."""
    epochs: PositiveInt = 3
    batch: PositiveInt = 8
    lr: float = Field(1e-4, gt=0)
    queries: PositiveInt = 32
    demonstrations: PositiveInt = 5
    contexts: PositiveInt = 4
    """Different sets of demonstrations; queries take them in turn."""
    seeds: tuple[int, ...] = (0,)
    asked: PositiveInt | None = None
    """Questions a domain that a fine-tuned model is asked (all of evaluation.questions if left out)."""
    probe: float = Field(0.05, gt=0, lt=1)
    """Share of the steps of the probe run."""
    probe_questions: PositiveInt = 16
    """Questions a domain that the probe runs are asked."""
    doses: tuple[float, ...] = ()
    """Further doses, as shares of the steps, on the sets of `dose_sets` with the first seed."""
    dose_sets: tuple[str, ...] = ()


class Profile(Section):
    """One run: the model, its SAE, the corpora and the sizes."""

    name: str
    about: str
    """One sentence, shown by `make help`."""
    model: str
    """A packaged model, a local folder, or a hub name (looked up in $STS_MIRROR first)."""
    revision: str | None = None
    layer: int = Field(ge=0)
    """The residual stream after this block is what the SAE reads."""
    sae: str
    """A folder of the project, or "release/sae_id" of sae-lens."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the forward pass in extraction; features and sums are float32 and float64."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """What runs the model in extraction and generation."""
    shown: Literal["ground_truth", "rollouts"] = "ground_truth"
    """The training set's demonstrations: its solutions, or the model's own answers that are verified correct (for
    reinforcement learning, which has no ground truth)."""
    executor: Literal["local", "ray"] = "local"
    """Where units run: this process, or a Ray cluster."""
    launcher: str | None = None
    """An accelerate config (profiles/accelerate/): SFT runs over its processes. Not part of what results depend on."""
    train: str
    """Training corpus (data.CORPORA)."""
    domains: str
    """Corpus of the downstream domains' questions."""
    demonstrations: str
    """Corpus of the domains' chain-of-thought demonstrations."""
    seeds: tuple[int, ...] = (0, 1, 2)
    top_n: PositiveInt = 100
    """N of D_N."""
    definition: Literal["paper", "released_code"] = "paper"
    alignment: Literal["query", "stream"] = "query"
    shift: ShiftSettings = ShiftSettings()
    sts: StsSettings = StsSettings()
    sft: SftSettings = SftSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    others: tuple[str, ...] = ()
    """Table 1: further training sets, each fine-tuned on with the first seed."""
    others_examples: PositiveInt = 128
    """Examples of each of them."""
    others_questions: PositiveInt | None = None
    """Questions a domain that their models, and that of Fig 6, are asked (all if left out)."""
    sweep: SweepSettings = SweepSettings()
    ablation: AblationSettings = AblationSettings()
    mixture: MixtureSettings = MixtureSettings()
    selective: SelectiveSettings = SelectiveSettings()
    grpo: GrpoSettings = GrpoSettings()
    labels: LabelSettings = LabelSettings()
    control: ControlSettings = ControlSettings()
    stages: tuple[str, ...] = ()
    """The notebooks that `reproduce` runs; all of them if left out."""

    @property
    def runs_paper(self) -> bool:
        """Whether the paper's own experiments are part of the run."""
        return not self.stages or bool(set(self.stages) - {"07_control"})

    @property
    def runs_control(self) -> bool:
        """Whether the positive control is part of the run."""
        return bool(self.control.sets) and (not self.stages or "07_control" in self.stages)


def names() -> list[str]:
    """The profiles at hand, without those that stand for several."""
    return sorted(path.stem for path in (ROOT / "profiles").glob("*.yaml") if path.stem not in groups())


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """Profiles that stand for several (a YAML with `profiles: [...]`), and which."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "profiles").glob("*.yaml")}
    return {
        name: tuple(yaml.safe_load(text)["profiles"])
        for name, text in texts.items()
        if text.startswith("profiles:") or "\nprofiles:" in text
    }


def load_all(name: str, seeds: str | tuple[int, ...] | None = None) -> list[Profile]:
    """The profiles that `name` stands for: several for one like `paper`, itself for a plain one."""
    return [load(member, seeds) for member in groups().get(name, (name,))]


def load(name: str, seeds: str | tuple[int, ...] | None = None) -> Profile:
    """The profile `name` (or a path to a YAML file), with other seeds if given ("0,1,2").

    Raises ValueError, in one line, for an unknown profile, key or value; an unknown key names the
    nearest one that exists.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else ROOT / "profiles" / f"{name}.yaml"
    if name in groups():
        raise ValueError(f"profile {name!r} stands for several: choose one of {', '.join(groups()[name])}")
    if not path.exists():
        known = sorted([*names(), *groups()])
        raise ValueError(f"unknown profile {name!r}{nearest(name, known)}: choose from {', '.join(known)}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"profile {path} is not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise ValueError(f"profile {path} is not a list of `key: value` lines")
    for key in ("engine", "executor"):
        if chosen := os.environ.get(f"STS_{key.upper()}"):  # of `make reproduce ENGINE=vllm EXECUTOR=ray`
            values[key] = chosen
    if seeds:
        try:
            values["seeds"] = [int(s) for s in seeds.split(",")] if isinstance(seeds, str) else seeds
        except ValueError:
            raise ValueError(f"SEEDS={seeds!r}: give whole numbers, like SEEDS=0,1,2") from None
    try:
        return Profile(name=path.stem, **values)
    except ValidationError as error:
        raise ValueError(f"profile {path.name}: {_first(error)}") from None
    except TypeError as error:
        raise ValueError(f"profile {path.name}: {error}") from None


def _first(error: ValidationError) -> str:
    """The first of pydantic's complaints, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = Profile
        for part in first["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key {where!r}{nearest(str(first['loc'][-1]), list(section.model_fields))}"
    got = "" if first["type"] == "missing" else f" (it is {first['input']!r})"
    return f"{where}: {first['msg'].lower()}{got}"


def nearest(word: str, known: list[str]) -> str:
    """What was perhaps meant by a misspelt word: " (did you mean …?)", or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.3)
    return f" (did you mean {close[0]!r}?)" if close else ""


def cpu_threads() -> int:
    """Threads for torch: the cores this process may use."""
    return len(os.sched_getaffinity(0))
