"""Pairs of prompts -> rows of SAE features -> sums. Nothing dense is kept: O(features) memory."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sae_lens import SAE
from tqdm import tqdm

from sts_utils import batches, generate, saes
from sts_utils.models import behind, context_cache, reading
from sts_utils.prompts import Prompt

log = logging.getLogger(__name__)

#: Rows of sums that are kept, so that memory does not grow with the corpus. Where there are more
#: queries, each row is the sum of every ROWS-th one (named by the first); a bootstrap draws these.
ROWS = 512
#: A batch's longest query over its shortest; without a limit 32 of GSM-Symbolic are half padding.
PADDING = 1.3
#: Tokens encoded at once: what is held is about this × features × 40 bytes.
ENCODED_ROWS = 1024


@dataclass(frozen=True)
class FeatureStats:
    """Sums over the query tokens of each example, in conditions a and b (the paper's definition).

    With h the SAE features [F] and r the residual stream [d_model] of one token, and Δ the
    difference b − a on the *same* token; rows are examples, to be drawn again by a bootstrap:

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
        own = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if f.name != "ids"}
        own = {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in own.items()}
        return own | {"ids": np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8)}

    @classmethod
    def from_arrays(cls, stored: dict[str, np.ndarray]) -> "FeatureStats":
        """What `arrays` gave."""
        return cls(**stored | {"ids": tuple(stored["ids"].tobytes().decode().split("\n"))})


class Hook(NamedTuple):
    """An SAE on the residual stream after block `layer`; rows above `sink_norm` are sinks."""

    layer: int
    sae: SAE
    sink_norm: float


@torch.inference_mode()
def feature_stats(
    pairs: Sequence[tuple[Prompt, Prompt]],
    model,
    hooks: Sequence[Hook],
    *,
    other_model=None,
    features: np.ndarray | None = None,
    tokens: int | None = None,
    desc: str | None = "extract",
) -> list[FeatureStats]:
    """Paired sums over the query tokens of `pairs`, for each hook: prompt a against prompt b.

    `model` is truncated after the deepest hook or later: one pass serves all; `other_model`, if
    given, runs condition b. Each context is run once and its key-value cache serves every query.
    Position 0 and attention sinks in either condition are left out. Raises ValueError where the
    query tokens differ or features are not finite.
    """
    models = (model, other_model or model)
    ids, layers = [a.example_id for a, _ in pairs], sorted({hook.layer for hook in hooks})
    sums = [{} for _ in hooks]
    with tqdm(total=len(pairs), desc=desc, unit="query", leave=False, disable=desc is None) as bar:
        plain = {}
        for contexts, members in by_context(pairs).items():
            if contexts[0] not in plain:  # the next contexts' plain one is mostly the same
                plain = {contexts[0]: context_cache(model, contexts[0])}
            caches = [plain[contexts[0]]]
            same = models[0] is models[1] and contexts[0] == contexts[1]  # one condition: Δ is zero
            caches.append(caches[0] if same else context_cache(models[1], contexts[1]))
            tails = {i: pairs[i][0].tail for i in members}
            for batch in _batches(tails, max(map(len, contexts)), model, tokens):
                for part, residuals in _halving(tails, models, caches, batch, layers):
                    lengths = [len(pairs[i][0].query) for i in part]
                    last = zip((len(tails[i]) for i in part), lengths, strict=True)
                    own = torch.cat([torch.arange(size) >= size - n for size, n in last])
                    for hook, of in zip(hooks, sums, strict=True):
                        sides = [side[hook.layer][own] for side in residuals]
                        add_sums(of, part, lengths, sides, hook, features, ids)
                bar.update(len(batch))
    return [stacked(of, ids, hook.sae, features) for hook, of in zip(hooks, sums, strict=True)]


def by_context(pairs: Sequence[tuple[Prompt, Prompt]]) -> dict[tuple, list[int]]:
    """(context a, context b) -> indices of the pairs behind them."""
    groups = defaultdict(list)
    for index, (a, b) in enumerate(pairs):
        if (a.query, a.tail) != (b.query, b.tail):
            raise ValueError(f"question {a.example_id}: query tokens differ between the conditions")
        groups[a.context, b.context].append(index)
    return groups


def tokens_read(pairs: Sequence[tuple[Prompt, Prompt]]) -> int:
    """Tokens that `feature_stats` reads: each context once, each query behind both of its own."""
    contexts = {side.context for pair in pairs for side in pair}
    return sum(map(len, contexts)) + 2 * sum(len(plain.tail) for plain, _ in pairs)


def add_sums(into: dict, indices, lengths, sides, hook: Hook, features, ids) -> None:
    """Add queries' sums to the rows of `into` (field -> tensor where the SAE is): query i to row
    i mod ROWS. From the residual rows [tokens, d_model] of both `sides` of a batch.

    `lengths` are the queries' tokens; ENCODED_ROWS rows are encoded at a time.
    """
    parts = [rows.split(lengths) for rows in sides]
    for run in _runs(lengths):
        r, r_other = (torch.cat([part[i] for i in run]) for part in parts)
        own = [lengths[i] for i in run]
        norms = torch.stack([r.norm(dim=-1), r_other.norm(dim=-1)])
        kept, finite = (norms < hook.sink_norm).all(0), torch.isfinite(norms).all(0)
        fields_ = {"n": torch.stack([part.sum() for part in kept.split(own)])}
        n = fields_["n"].tolist()
        r, r_other = r[kept], r_other[kept]
        h, h_other = (saes.encode(hook.sae, rows, features) for rows in (r, r_other))
        for name, rows in (("h", h), ("dh", h_other - h), ("r", r), ("dr", r_other - r)):
            rows = rows.double()
            fields_[name] = _sums(rows, n)
            fields_[f"{name}2"] = _sums(rows.square_(), n)
        del fields_["r2"]
        whole = torch.stack([part.all() for part in finite.split(own)])
        whole &= fields_["dh2"].isfinite().all(1)
        if not whole.all():
            name = ids[indices[run[whole.int().argmin()]]]
            raise ValueError(f"question {name}: features are not finite; try dtype: float32")
        places = torch.tensor([indices[i] % ROWS for i in run], device=r.device)
        for name, values in fields_.items():
            if name not in into:
                into[name] = values.new_zeros(min(ROWS, len(ids)), *values.shape[1:])
            into[name].index_add_(0, places, values)


def _sums(rows: torch.Tensor, n: list[int]) -> torch.Tensor:
    """[Q, F] sums of rows [tokens, F], `n` tokens a query."""
    return torch.stack([part.sum(0) for part in rows.split(n)])


def _runs(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of queries of at most ENCODED_ROWS tokens together, or of one longer query."""

    def fits(run, i):
        return sum(lengths[j] for j in run) + lengths[i] <= ENCODED_ROWS

    return batches.greedy(range(len(lengths)), fits)


def stacked(sums: dict, ids: Sequence[str], sae, features=None) -> FeatureStats:
    """What `add_sums` added, as one FeatureStats."""
    columns = np.arange(sae.cfg.d_sae) if features is None else np.asarray(features)
    rows = {name: values.cpu().numpy() for name, values in sums.items()}
    return FeatureStats(ids=tuple(ids)[:ROWS], features=columns, **rows)


# --- forward passes ----------------------------------------------------------------------------


def query_residuals(model, cache, queries: Sequence, layers: Sequence[int]) -> dict:
    """Block -> residual rows [sum of query lengths, d_model], float32, behind one cached context
    (without any, the first token is position 0, an attention sink: `sink_norm` drops it)."""
    width = max(map(len, queries))
    past = cache.get_seq_length() if cache is not None else 0
    ids = torch.zeros(len(queries), width, dtype=torch.long)
    mask = torch.zeros(len(queries), past + width, dtype=torch.long)
    mask[:, :past] = 1
    for row, query in enumerate(queries):
        ids[row, : len(query)] = torch.tensor(query)
        mask[row, past : past + len(query)] = 1
    told = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    with reading(model, layers) as hidden:
        model(**told, **behind(cache, len(queries)))
    own = mask[:, past:].bool()
    return {layer: hidden[layer][own].float() for layer in layers}


def _batches(queries: dict, longest: int, model, tokens: int | None) -> Iterator[list[int]]:
    """Queries of like length; padded tokens, and the caches copied for them, as there is room."""
    tokens = tokens or batches.batch_tokens()
    cached = batches.cached_tokens(model, tokens)

    def fits(batch, index):
        width, size = len(queries[index]), len(batch) + 1
        alike = width <= PADDING * len(queries[batch[0]])
        return alike and size * width <= tokens and size * (longest + width) <= cached

    return batches.greedy(sorted(queries, key=lambda i: (len(queries[i]), i)), fits)


def _halving(queries: dict, models, caches, batch: list[int], layers) -> Iterator[tuple]:
    """(indices, [residuals a, residuals b]); halves the batch where the GPU has no room."""
    residuals, read = [], [queries[i] for i in batch]
    try:
        residuals.append(query_residuals(models[0], caches[0], read, layers))
        same = models[0] is models[1] and caches[0] is caches[1]
        residuals += residuals if same else [query_residuals(models[1], caches[1], read, layers)]
    except torch.cuda.OutOfMemoryError:
        if len(batch) == 1:
            raise
    if len(residuals) == 2:
        yield batch, residuals
        return
    # here, not in the except block: the exception holds what did not fit
    log.warning("CUDA out of memory with %d queries a batch: going on with half", len(batch))
    residuals.clear()
    torch.cuda.empty_cache()
    for half in (batch[: len(batch) // 2], batch[len(batch) // 2 :]):
        yield from _halving(queries, models, caches, half, layers)


@torch.inference_mode()
def sink_norm(model, prompts: Sequence[Prompt]) -> float:
    """Residual norm above which a token is an attention sink: 10 × the median over `prompts`."""
    norms = []
    for ids in (torch.tensor([prompt.ids], device=model.device) for prompt in prompts):
        rows = model(input_ids=ids, use_cache=False).last_hidden_state[0, 1:].float()
        norms.append(rows.norm(dim=-1))
    if not np.isfinite(median := torch.cat(norms).median().item()):
        raise ValueError("the model's residual stream is not finite; try dtype: float32")
    return saes.SINK_FACTOR * median


#: Blocks of rows that stand in for examples, so that a bootstrap can draw them again.
BLOCKS = 32


@torch.inference_mode()
def stream_stats(
    pairs: Sequence[tuple[Prompt, Prompt]],
    model,
    hook: Hook,
    max_rows: int = 10_000,
    generated: Mapping[tuple[str, str], Sequence[int]] | None = None,
    read: Callable[[Sequence[Sequence[int]]], Iterator[torch.Tensor]] | None = None,
) -> FeatureStats:
    """Paired sums over the rows of two streams.

    A stream is every token of a condition's prompts in order (header, demonstrations, query, and
    the tokens of `generated[example_id, condition]`), its first `max_rows` rows without sinks.
    `read`: another engine in place of `model`; from the ids of prompts it yields the residual rows
    [tokens, d_model] of each.
    """
    read, generated = read or partial(whole_rows, model), generated or {}
    streams = []
    for prompts in zip(*pairs, strict=True):
        ids = [[*p.ids, *generated.get((p.example_id, p.condition), ())] for p in prompts]
        streams.append(_stream(read(ids), hook.sink_norm, max_rows).to(hook.sae.device))
    rows = min(map(len, streams))
    lengths = [len(block) for block in torch.arange(rows).split(-(-rows // BLOCKS))]
    ids = [f"rows-{i}" for i in range(len(lengths))]
    every = hook._replace(sink_norm=np.inf)
    sides = [stream[:rows] for stream in streams]
    sums = {}
    add_sums(sums, range(len(lengths)), lengths, sides, every, None, ids)
    return stacked(sums, ids, hook.sae)


def whole_rows(model, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """The residual rows [tokens, d_model] of each whole prompt, by a truncated model."""
    for ids in tqdm(prompts, desc="stream", unit="prompt", leave=False):
        ids = torch.tensor([ids], device=model.device)
        yield model(input_ids=ids, use_cache=False).last_hidden_state[0].float()


def _stream(prompts: Iterator[torch.Tensor], sink_norm: float, max_rows: int) -> torch.Tensor:
    """The first `max_rows` residual rows of whole prompts, one after the other."""
    rows, n = [], 0
    for hidden in prompts:
        rows.append(hidden[hidden.norm(dim=-1) < sink_norm])
        n += len(rows[-1])
        if n >= max_rows:
            break
    return torch.cat(rows)[:max_rows]


def continuations(model, tokenizer, prompts: Sequence[Prompt], new_tokens: int) -> dict:
    """(example id, condition) -> ids of the whole model's greedy continuation of a prompt."""
    ids, greedy = [prompt.ids for prompt in prompts], {"do_sample": False}
    greedy |= {"max_new_tokens": new_tokens}  # the rest is the model's own
    rows = generate.continued(model, tokenizer, ids, 1, "generate", **greedy)
    keys = [(prompt.example_id, prompt.condition) for prompt in prompts]
    return dict(zip(keys, rows, strict=True))
