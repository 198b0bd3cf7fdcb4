"""A small hub: what a paper profile reads, in the files that the real one has, but small.

`build(folder, profile)` writes two places: `folder`/mirror, for STS_MIRROR, with the datasets; and
`folder`/hub, a cache of the hub's client (HF_HUB_CACHE), with the model and the SAEs, which
sae-lens's own loaders read there.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rehearsal import families
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from sts_utils import check, corpora, saes
from sts_utils.config import Profile

WIDTH, WORDS = 64, 4096
#: What is smaller than the public config; depth, RoPE, norms, caps and grouped queries stay.
SMALL = dict(hidden_size=WIDTH, intermediate_size=128, num_attention_heads=2, head_dim=32)
SMALL |= dict(num_key_value_heads=1, initializer_range=0.05)
COMMIT = "0" * 40


def build(folder: Path, profile: Profile) -> None:
    """Everything that `profile` reads from the hub, of its own family, into `folder`."""
    for name in check.corpora_of(profile):
        if hub := corpora.entry(name).hub:
            path, split = hub["path"], hub["split"]
            dataset(path, split, folder / "mirror" / path / f"{split}.parquet")
    model(profile.name, snapshot(folder / "hub", profile.model, profile.revision))
    for name in profile.saes:
        sae(profile, name, folder / "hub")


def snapshot(cache: Path, repository: str, commit: str) -> Path:
    """Where the hub's client keeps the files of a repository's commit."""
    release = cache / f"models--{repository.replace('/', '--')}"
    (release / "refs").mkdir(parents=True, exist_ok=True)
    (release / "refs/main").write_text(commit)
    return release / "snapshots" / commit


def model(family: str, folder: Path, **changes) -> None:
    """A random model of the family: its config class, its depth, few narrow heads; or `changes`."""
    made, dims = families.PUBLIC[family]
    tokenizer = families.tokenizer(family, WORDS)
    ends = tokenizer.convert_tokens_to_ids(families.FAMILIES[family]["ends"])
    ids = {"eos_token_id": ends, "bos_token_id": tokenizer.bos_token_id}
    small = dims | SMALL | ids | {"vocab_size": len(tokenizer)}
    small["pad_token_id"] = tokenizer.pad_token_id
    if family == "gemma2-9b":
        small["sliding_window"] = 256  # shorter than the demonstrations, as 4,096 is than LIMO's
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = AutoModelForCausalLM.from_config(made(**small | changes)).to(torch.bfloat16)
        whole.generation_config = GenerationConfig(**ids)
        whole.save_pretrained(folder, max_shard_size="1MB")  # several files and an index
    tokenizer.save_pretrained(folder)


def sae(profile: Profile, name: str, cache: Path) -> None:
    """An SAE that leaves nothing of a row over, in the file format of its release.

    Its features are a row's positive and negative parts in a random basis.
    """
    _, _, sae_id = name.partition("/")
    files = snapshot(cache, saes.repository(name), COMMIT)
    rng = np.random.default_rng(sum(map(ord, name)))
    basis = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0].astype("float32")
    decoder = np.concatenate([basis.T, -basis.T])  # [features, width]
    FORMATS[profile.name](files, sae_id, decoder, profile)


def sae_lens(files: Path, sae_id: str, decoder: np.ndarray, profile: Profile) -> None:
    """cfg.json as sae-lens wrote it before version 6, and safetensors."""
    features, width = decoder.shape
    cfg = dict(architecture="standard", d_in=width, d_sae=features, dtype="torch.float32")
    cfg |= dict(device="cuda", model_name=profile.model, hook_name=sae_id)
    cfg |= dict(hook_layer=profile.layer, hook_head_index=None, activation_fn_str="relu")
    cfg |= dict(activation_fn_kwargs={}, apply_b_dec_to_input=True, normalize_activations="none")
    cfg |= dict(finetuning_scaling_factor=False, context_size=1024, dataset_path="")
    cfg |= dict(dataset_trust_remote_code=False, prepend_bos=True, sae_lens_training_version=None)
    folder = files / sae_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(cfg))
    tensors = dict(W_enc=decoder.T, W_dec=decoder, b_enc=np.zeros(features), b_dec=np.zeros(width))
    tensors = {n: torch.tensor(np.ascontiguousarray(v, "float32")) for n, v in tensors.items()}
    save_file(tensors, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(features)}, folder / "sparsity.safetensors")


def dictionary_learning(files: Path, sae_id: str, decoder: np.ndarray, profile: Profile) -> None:
    """config.json and ae.pt of a BatchTopK SAE: torch.nn.Linear's layout, one threshold."""
    features, width = decoder.shape
    place, trainer = sae_id.split("_trainer_")
    folder = files / place / f"trainer_{trainer}"
    folder.mkdir(parents=True, exist_ok=True)
    told = dict(dict_class="BatchTopKSAE", activation_dim=width, dict_size=features, k=width)
    told |= dict(layer=int(place.rpartition("_")[2]), lm_name=profile.model)
    config = {"trainer": told, "buffer": {"ctx_len": 1024, "d_submodule": width}}
    (folder / "config.json").write_text(json.dumps(config))
    decoder = torch.tensor(decoder)
    tensors = {"encoder.weight": decoder, "encoder.bias": torch.zeros(features)}
    tensors |= {"decoder.weight": decoder.T, "b_dec": torch.zeros(width)}
    tensors |= {"k": torch.tensor(width), "threshold": torch.tensor(0.0)}
    torch.save(tensors, folder / "ae.pt")


def gemma_scope(files: Path, sae_id: str, decoder: np.ndarray, profile: Profile) -> None:
    """params.npz of a JumpReLU SAE."""
    features, width = decoder.shape
    (files / sae_id).mkdir(parents=True, exist_ok=True)
    zeros = dict(b_enc=np.zeros(features, "f4"), threshold=np.zeros(features, "f4"))
    zeros["b_dec"] = np.zeros(width, "f4")
    np.savez(files / sae_id / "params.npz", w_enc=decoder.T, w_dec=decoder, **zeros)


FORMATS = {"llama3-8b": sae_lens, "qwen2.5-7b": dictionary_learning, "gemma2-9b": gemma_scope}


def dataset(path: str, split: str, file: Path) -> None:
    """The dataset itself, where STS_MIRROR has it; else few rows with its columns."""
    real = Path(os.environ.get("STS_MIRROR") or "/none") / path / f"{split}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    if real.exists():
        shutil.copy(real, file)
    else:
        pd.DataFrame(DATASETS[path, split]()).to_parquet(file)


def few(corpus: str, seed: int, size: int = 60, **columns: str) -> list[dict]:
    """Questions of `corpus`: each column holds that field of them, or what stands here."""
    chosen = corpora.load(corpus, seed, size)
    return [{name: getattr(e, of, of) for name, of in columns.items()} for e in chosen]


def limo() -> list[dict]:
    """Two solutions are too long to be demonstrations, as most of LIMO's are."""
    rows = few("gsm-symbolic", 0, 120, question="question", solution="solution", answer="answer")
    for i in (7, 57):
        rows[i]["solution"] *= 20
    return rows


def mmlu_pro(corpus: str, most: int) -> list[dict]:
    rows, asked = [], {}
    for e in corpora.in_order(corpus):
        asked[e.domain] = asked.get(e.domain, 0) + 1
        if asked[e.domain] <= most:
            gold, worked = e.options.index(e.answer), f"A: Let's think step by step. {e.solution}"
            row = {"question_id": len(rows), "question": e.question, "options": list(e.options)}
            row |= {"answer": "ABCDEFGHIJ"[gold], "answer_index": gold, "category": e.domain}
            rows.append(row | {"src": "", "cot_content": worked if e.solution else ""})
    return rows


def mental_health() -> list[dict]:
    rows = few("pubmedqa", 0, question="question", answer="answer", metadata="solution")
    for row in rows:
        row["answer"] = row["answer"] or row["metadata"]
        row["metadata"] = json.dumps({"reasoning": row["metadata"]})
    return rows


MATH = dict(problem="question", solution="solution")
ALGEBRA = dict(**MATH, level="Level 1", type="Algebra")
CODING = dict(problem="question", gold_standard_solution="solution")
DATASETS = {
    ("GAIR/LIMO", "train"): limo,
    ("TIGER-Lab/MMLU-Pro", "test"): lambda: mmlu_pro("mmlu-test", 40),
    ("TIGER-Lab/MMLU-Pro", "validation"): lambda: mmlu_pro("mmlu-cot", 5),
    ("DigitalLearningGmbH/MATH-lighteval", "train"): lambda: few("gsm-symbolic", 1, **ALGEBRA),
    ("HuggingFaceH4/MATH-500", "test"): lambda: few("gsm-symbolic", 2, **MATH, answer="answer"),
    ("open-r1/verifiable-coding-problems-python-10k", "train"): lambda: few("code-io", 0, **CODING),
    ("moremilk/CoT_Reasoning_Mens_Mental_Health", "train"): mental_health,
    ("Anthropic/hh-rlhf", "test"): lambda: few("mts-dialog", 0, chosen="question", rejected=""),
}
