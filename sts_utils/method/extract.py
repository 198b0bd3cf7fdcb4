"""Pairs of prompts -> rows of SAE features -> sums. Nothing dense is kept: memory is O(features)."""

import copy
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import psutil
import torch
from sae_lens import SAE
from tqdm import tqdm

from sts_utils import saes
from sts_utils.method.prompts import Prompt

log = logging.getLogger(__name__)

#: Rows of sums that are kept, so that memory does not grow with the corpus. Where there are more queries, each row is
#: the sum of every ROWS-th one (named by the first), and a bootstrap draws these groups.
ROWS = 512


@dataclass(frozen=True)
class FeatureStats:
    """Sums over the query tokens of each example, in conditions a and b (the paper's definition).

    Rows are examples, so that a bootstrap can draw them again. With h the SAE features [F] and r the
    raw residual stream [d_model] of one token, and Δ the difference b − a on the *same* token:

    | field | shape | sum over the example's tokens of |
    |---|---|---|
    | n | [Q] | 1 |
    | h, h2 | [Q, F] | h in condition a, and its square |
    | dh, dh2 | [Q, F] | Δh, (Δh)² |
    | r, dr, dr2 | [Q, d_model] | r in condition a, Δr, (Δr)² |

    `features` [F] are the SAE's ids of the columns; `ids` are the examples'.
    """

    ids: tuple[str, ...]
    features: np.ndarray
    n: np.ndarray
    h: np.ndarray
    h2: np.ndarray
    dh: np.ndarray
    dh2: np.ndarray
    r: np.ndarray
    dr: np.ndarray
    dr2: np.ndarray

    def mean(self, field: str) -> np.ndarray:
        """The expectation over tokens of a field: its sum over examples / the number of tokens."""
        return getattr(self, field).sum(0, dtype=np.float64) / self.n.sum()

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays to store: sums in float32, `ids` as UTF-8 bytes."""
        stored = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if f.name != "ids"}
        stored = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in stored.items()}
        return stored | {"ids": np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, stored: dict[str, np.ndarray]) -> "FeatureStats":
        """What `arrays` stored."""
        return cls(**stored | {"ids": tuple(stored["ids"].tobytes().decode().split("\n"))})


def batch_tokens() -> int:
    """Tokens of one forward pass, from the machine: more memory or more cores, larger batches.

    On a CPU small batches win: less padding, fewer copies of the context's cache (512 tokens on two
    cores took 0.6 of the time that 4096 did).
    """
    if torch.cuda.is_available():
        return int(min(65536, free_memory() / 2**20))
    return int(min(256 * torch.get_num_threads(), psutil.virtual_memory().available / 2**20))


def free_memory() -> int:
    """Bytes of the GPU that this process can still take: free ones, and those that its allocator keeps unused."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def cached_tokens(model, tokens: int) -> int:
    """Tokens that the copies of a context's key-value cache may hold together: on a GPU a quarter of its memory."""
    if not torch.cuda.is_available():
        return 16 * tokens
    config = model.config.get_text_config()
    heads, width = config.num_attention_heads, config.hidden_size
    width = getattr(config, "head_dim", None) or width // heads
    heads = getattr(config, "num_key_value_heads", None) or heads
    return max(tokens, free_memory() // (4 * 2 * len(model.layers) * heads * width * model.dtype.itemsize))


#: Rows encoded at once: what is held is about this × features × 40 bytes.
ENCODED_ROWS = 1024


class Tap(NamedTuple):
    """An SAE on the residual stream after block `layer`; rows above `sink_norm` are attention sinks."""

    layer: int
    sae: SAE
    sink_norm: float


def feature_stats(
    pairs: Sequence[tuple[Prompt, Prompt]], model, taps: Sequence[Tap], *, other_model=None,
    features: np.ndarray | None = None, tokens: int | None = None, desc: str | None = "extract",
) -> list[FeatureStats]:  # fmt: skip
    """Paired sums over the query tokens of `pairs`, for each tap: condition a is the first prompt, b the second.

    `model` is truncated after the deepest tap or later, so one forward pass serves every tap;
    `other_model` runs condition b where the two conditions are two models (before and after
    fine-tuning). Each distinct context is run once and its key-value cache reused by every query
    behind it. Tokens at position 0 and tokens whose residual norm exceeds the tap's `sink_norm` in
    either condition are left out. Without a `desc` there is no progress bar.

    Raises ValueError where the query tokens differ or features are not finite.
    """
    models = (model, other_model or model)
    ids = [a.example_id for a, _ in pairs]
    layers = sorted({tap.layer for tap in taps})
    sums = [{} for _ in taps]
    groups = defaultdict(list)
    for index, (a, b) in enumerate(pairs):
        if a.query != b.query:
            raise ValueError(f"question {a.example_id}: query tokens differ between the conditions")
        groups[a.context, b.context].append(index)

    hidden = desc is None
    with tqdm(total=len(pairs), desc=desc, unit="query", leave=False, disable=hidden) as bar, torch.inference_mode():
        for contexts, members in groups.items():
            caches = [context_cache(model, contexts[0])]
            same = models[0] is models[1] and contexts[0] == contexts[1]  # one condition alone: Δ is zero
            caches.append(caches[0] if same else context_cache(models[1], contexts[1]))
            longest = max(map(len, contexts))
            most = tokens or batch_tokens()
            for batch in _batches(members, pairs, longest, most, cached_tokens(model, most)):
                queries = [pairs[i][0].query for i in batch]
                for indices, lengths, residuals in _halving(queries, models, caches, list(batch), layers):
                    for tap, found in zip(taps, sums, strict=True):
                        rows = [side[tap.layer] for side in residuals]
                        pool(found, paired_sums(indices, lengths, rows, tap.sae, tap.sink_norm, features, ids))
                bar.update(len(batch))

    return [stacked(found, ids, tap.sae, features) for tap, found in zip(taps, sums, strict=True)]


def pool(into: dict[int, dict], found: dict[int, dict]) -> None:
    """Add queries' sums to the rows kept: query i to row i mod ROWS."""
    for index, sums in found.items():
        row = into.get(index % ROWS)
        into[index % ROWS] = {k: row[k] + v for k, v in sums.items()} if row else sums


def stacked(sums: dict[int, dict], ids: Sequence[str], sae, features=None) -> FeatureStats:
    """Each row's sums, in order, as one FeatureStats."""
    ids = tuple(ids)[:ROWS]
    fields_ = {k: np.stack([sums[i][k] for i in range(len(ids))]) for k in sums[0]}
    columns = np.arange(sae.cfg.d_sae) if features is None else np.asarray(features)
    return FeatureStats(ids=ids, features=columns, **fields_)


def paired_sums(indices, lengths, residuals, sae, sink_norm, features, ids) -> dict[int, dict]:
    """Residual rows of one batch in both conditions -> each query's sums, ENCODED_ROWS rows at a time."""
    sums, sides = {}, [rows.split(lengths) for rows in residuals]
    for run in _runs(lengths):
        r, r_other = (torch.cat(side[run]) for side in sides)
        norms = torch.stack([r.norm(dim=-1), r_other.norm(dim=-1)])
        kept = (norms < sink_norm).all(0)
        finite = torch.isfinite(norms).all(0)
        n = [int(part.sum()) for part in kept.split(lengths[run])]
        r, r_other = r[kept], r_other[kept]
        h, h_other = (saes.encode(sae, rows, features) for rows in (r, r_other))
        found = {"n": np.array(n)}
        for name, rows in (("h", h), ("dh", h_other - h), ("r", r), ("dr", r_other - r)):
            rows = rows.double()
            found[name] = torch.stack([part.sum(0) for part in rows.split(n)]).cpu().numpy()
            rows.square_()
            found[f"{name}2"] = torch.stack([part.sum(0) for part in rows.split(n)]).cpu().numpy()
        del found["r2"]
        whole = np.isfinite(found["dh2"]).all(1) & [bool(part.all()) for part in finite.split(lengths[run])]
        for row, index in enumerate(indices[run]):
            if not whole[row]:
                raise ValueError(f"question {ids[index]}: features are not finite; try dtype: float32")
            sums[index] = {name: values[row] for name, values in found.items()}
    return sums


def _runs(lengths: Sequence[int]) -> Iterator[slice]:
    """Runs of queries of at most ENCODED_ROWS tokens together, or of one longer query."""
    first, rows = 0, 0
    for i, length in enumerate(lengths):
        if rows and rows + length > ENCODED_ROWS:
            yield slice(first, i)
            first, rows = i, 0
        rows += length
    yield slice(first, len(lengths))


def context_cache(model, context: Sequence[int]):
    """The key-value cache of `context` (None for an empty one), to be copied by every batch."""
    if not context:
        return None
    ids = torch.tensor([context], device=model.device)
    return model(input_ids=ids, use_cache=True).past_key_values


def query_residuals(model, cache, queries: Sequence[Sequence[int]], layers: Sequence[int]) -> dict[int, torch.Tensor]:
    """Block -> residual rows [sum of query lengths, d_model], float32, of queries behind one cached context.

    Without a context the first token is position 0, an attention sink: `sink_norm` drops it.
    """
    width = max(map(len, queries))
    past = cache.get_seq_length() if cache is not None else 0
    ids = torch.zeros(len(queries), width, dtype=torch.long)
    mask = torch.zeros(len(queries), past + width, dtype=torch.long)
    mask[:, :past] = 1
    for row, query in enumerate(queries):
        ids[row, : len(query)] = torch.tensor(query)
        mask[row, past : past + len(query)] = 1
    if cache is not None:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(queries))
    device = model.device
    hidden = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), past_key_values=cache,
        use_cache=cache is not None, output_hidden_states=True,
    ).hidden_states  # fmt: skip
    own = mask[:, past:].bool().to(device)
    return {layer: hidden[layer + 1][own].float() for layer in layers}


def _batches(members, pairs, longest, tokens, cached) -> Iterator[list[int]]:
    """Queries of like length; a batch holds at most `tokens` padded tokens, and `cached` in caches."""
    batch = []
    for index in sorted(members, key=lambda i: (len(pairs[i][0].query), i)):
        width = len(pairs[index][0].query)
        size = len(batch) + 1
        if batch and (size * width > tokens or size * (longest + width) > cached):
            yield batch
            batch = []
        batch.append(index)
    yield batch


def _halving(queries, models, caches, batch, layers):
    """(indices, lengths, [residuals a, residuals b]); halves the batch when the GPU has no room."""
    residuals = None
    try:
        first = query_residuals(models[0], caches[0], queries, layers)
        same = models[0] is models[1] and caches[0] is caches[1]
        residuals = [first, first if same else query_residuals(models[1], caches[1], queries, layers)]
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
    if residuals is not None:
        yield batch, [len(q) for q in queries], residuals
        return
    # here, not in the except block: the exception holds what did not fit
    log.warning("CUDA out of memory with %d queries a batch: going on with half", len(batch))
    first = None
    torch.cuda.empty_cache()
    half = len(batch) // 2
    yield from _halving(queries[:half], models, caches, batch[:half], layers)
    yield from _halving(queries[half:], models, caches, batch[half:], layers)


@torch.inference_mode()
def sink_norm(model, prompts: Sequence[Prompt]) -> float:
    """Residual norm above which a token is an attention sink: 10 × the median over these prompts."""
    norms = []
    for prompt in prompts:
        ids = torch.tensor([prompt.ids], device=model.device)
        norms.append(model(input_ids=ids, use_cache=False).last_hidden_state[0, 1:].float().norm(dim=-1))
    if not np.isfinite(median := torch.cat(norms).median().item()):
        raise ValueError("the model's residual stream is not finite; try dtype: float32")
    return saes.SINK_FACTOR * median


def stream_stats(
    pairs: Sequence[tuple[Prompt, Prompt]], model, sae, *, sink_norm: float, max_rows: int = 10_000,
    generated: dict[tuple[str, str], Sequence[int]] | None = None,
) -> FeatureStats:  # fmt: skip
    """The released code's reading (`alignment: stream`): row i of one stream against row i
    of the other, whatever tokens they are.

    A stream is every token of a condition's prompts in order (header, demonstrations, query, and the
    tokens of `generated[example_id, condition]`), its first `max_rows` rows. Sinks are left out.
    """
    generated = generated or {}
    streams = [_stream([p[side] for p in pairs], model, sink_norm, max_rows, generated) for side in (0, 1)]
    rows = min(map(len, streams))
    blocks = torch.arange(rows).split(-(-rows // 32))  # 32 blocks stand in for examples
    lengths = [len(b) for b in blocks]
    ids = [f"rows-{i}" for i in range(len(blocks))]
    with torch.inference_mode():
        sums = paired_sums(range(len(blocks)), lengths, [s[:rows] for s in streams], sae, np.inf, None, ids)
    return stacked(sums, ids, sae)


@torch.inference_mode()
def _stream(prompts, model, sink_norm, max_rows, generated) -> torch.Tensor:
    """The first `max_rows` residual rows of whole prompts, one after the other."""
    rows, n = [], 0
    for prompt in tqdm(prompts, desc="stream", unit="prompt", leave=False):
        ids = [*prompt.ids, *generated.get((prompt.example_id, prompt.condition), ())]
        hidden = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False)
        hidden = hidden.last_hidden_state[0].float()
        rows.append(hidden[hidden.norm(dim=-1) < sink_norm])
        n += len(rows[-1])
        if n >= max_rows:
            break
    return torch.cat(rows)[:max_rows]


@torch.inference_mode()
def generate(model, tokenizer, prompts: Sequence[Prompt], new_tokens: int) -> dict[tuple[str, str], list[int]]:
    """Greedy continuations of whole prompts by the whole model, for `stream_stats`."""
    found = {}
    for prompt in tqdm(prompts, desc="generate", unit="prompt", leave=False):
        ids = torch.tensor([prompt.ids], device=model.device)
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        found[prompt.example_id, prompt.condition] = out[0, ids.shape[1] :].tolist()
    return found
