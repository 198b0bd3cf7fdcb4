"""Pairs of prompts -> rows of SAE features -> sums. Nothing dense is kept: O(features) memory."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from sts_utils import batches, saes
from sts_utils.models import context_cache, query_residuals
from sts_utils.prompts import Pairs, Prompt

log = logging.getLogger(__name__)

#: Rows of sums that are kept, so that memory does not grow with the corpus. Where there are more
#: queries, each row is the sum of every ROWS-th one (named by the first); a bootstrap draws these.
ROWS = 512
#: A batch's longest query over its shortest; without a limit 32 of GSM-Symbolic are half padding.
PADDING = 1.3
ENCODED_ROWS = 1024  #: Tokens encoded at once: about this × features × 40 bytes are held.
BLOCKS = 32  #: Of a stream's rows: they stand in for examples, for a bootstrap to draw again.


@dataclass(frozen=True)
class FeatureStats:
    """Sums over the query tokens of each example, in conditions a and b (the paper's definition).
    With h the SAE features [F] and r the residual stream [d_model] of one token in condition a, and
    Δ the difference b − a on the *same* token; rows are examples, drawn again by a bootstrap."""

    ids: tuple[str, ...]  # of the examples [Q]
    features: np.ndarray  # [F] the SAE's ids of the columns
    n: np.ndarray  # [Q] the example's tokens, over which all else is summed
    h: np.ndarray  # [Q, F]
    h2: np.ndarray  # [Q, F] h²
    dh: np.ndarray  # [Q, F] Δh
    dh2: np.ndarray  # [Q, F] (Δh)²
    r: np.ndarray  # [Q, d_model]
    dr: np.ndarray  # [Q, d_model] Δr
    dr2: np.ndarray  # [Q, d_model] (Δr)²

    def mean(self, field: str) -> np.ndarray:
        """The expectation over tokens of a field: its sum over examples / the number of tokens."""
        return getattr(self, field).sum(0, dtype=np.float64) / self.n.sum()

    def arrays(self) -> dict[str, np.ndarray]:
        """The fields as arrays to store: sums in float32, `ids` as UTF-8 bytes."""
        own = vars(self) | {"ids": np.frombuffer("\n".join(self.ids).encode(), dtype=np.uint8)}
        return {k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in own.items()}

    @classmethod
    def from_arrays(cls, stored: dict[str, np.ndarray]) -> "FeatureStats":
        """What `arrays` gave."""
        return cls(**stored | {"ids": tuple(stored["ids"].tobytes().decode().split("\n"))})


class Hook(NamedTuple):
    """An SAE on the residual stream after block `layer`; rows above `sink_norm` are sinks."""

    layer: int
    sae: "saes.SAE"
    sink_norm: float


@torch.inference_mode()
def feature_stats(
    pairs: Pairs, model, hooks, *, other_model=None, features=None, tokens=None, desc="extract"
) -> list[FeatureStats]:
    """Paired sums over the query tokens of `pairs`, for each of `hooks`: prompt a against prompt b;
    of all features or the ids `features`, in passes of at most so many `tokens`.
    `model` is truncated after the deepest hook or later: one pass serves all; `other_model`, if
    given, runs condition b. Each context is run once and its key-value cache serves every query.
    Position 0 and attention sinks in either condition are left out. Raises ValueError where the
    query tokens differ or features are not finite."""
    other, layers = other_model or model, sorted({hook.layer for hook in hooks})
    ids, sums, plain = [a.example_id for a, _ in pairs], [{} for _ in hooks], {}
    tokens = tokens or batches.batch_tokens()
    with tqdm(total=len(pairs), desc=desc, unit="query", leave=False, disable=desc is None) as bar:
        for contexts, members in by_context(pairs).items():
            if contexts[0] not in plain:  # the next contexts' plain one is mostly the same
                plain = {contexts[0]: context_cache(model, contexts[0])}
            cache = plain[contexts[0]]
            sides = [(model, cache)]
            if other is not model or contexts[0] != contexts[1]:  # else one condition: Δ is zero
                sides.append((other, context_cache(other, contexts[1])))
            tails = {i: pairs[i][0].tail for i in members}
            for batch, rows in _passes(tails, max(map(len, contexts)), sides, layers, tokens):
                lengths = [len(pairs[i][0].query) for i in batch]
                sizes = zip((len(tails[i]) for i in batch), lengths, strict=True)
                own = torch.cat([torch.arange(size) >= size - n for size, n in sizes])
                for hook, into in zip(hooks, sums, strict=True):
                    both = [rows[0][hook.layer][own], rows[-1][hook.layer][own]]
                    add_sums(into, batch, lengths, both, hook, features, ids)
                bar.update(len(batch))
    return [stacked(into, ids, hook.sae, features) for hook, into in zip(hooks, sums, strict=True)]


def by_context(pairs: Pairs) -> dict[tuple, list[int]]:
    """(context a, context b) -> indices of the pairs behind them."""
    groups = {}
    for index, (a, b) in enumerate(pairs):
        if (a.query, a.tail) != (b.query, b.tail):
            raise ValueError(f"question {a.example_id}: query tokens differ between the conditions")
        groups.setdefault((a.context, b.context), []).append(index)
    return groups


def tokens_read(pairs: Pairs) -> int:
    """Tokens that `feature_stats` reads: each context once, each query behind both of its own."""
    contexts = {side.context for pair in pairs for side in pair}
    return sum(map(len, contexts)) + 2 * sum(len(plain.tail) for plain, _ in pairs)


def add_sums(into: dict, indices, lengths, sides, hook: Hook, features, ids) -> None:
    """Add queries' sums to the rows of `into` (field -> tensor where the SAE is), query i to row
    i mod ROWS, from the residual rows [tokens, d_model] of both `sides` of a batch. `lengths` are
    the queries' tokens; ENCODED_ROWS rows are encoded at a time."""
    parts, every = [rows.split(lengths) for rows in sides], range(len(lengths))
    runs = batches.greedy(every, lambda b, i: sum(lengths[j] for j in [*b, i]) <= ENCODED_ROWS)
    for some in runs:
        r, r_other = (torch.cat([part[i] for i in some]) for part in parts)
        own = [lengths[i] for i in some]
        norms = torch.stack([r.norm(dim=-1), r_other.norm(dim=-1)])
        kept, finite = (norms < hook.sink_norm).all(0), torch.isfinite(norms).all(0)
        found = {"n": torch.stack([part.sum() for part in kept.split(own)])}
        n, r, r_other = found["n"].tolist(), r[kept], r_other[kept]
        h, h_other = (saes.encode(hook.sae, rows, features) for rows in (r, r_other))
        for name, rows in (("h", h), ("dh", h_other - h), ("r", r), ("dr", r_other - r)):
            rows = rows.double()
            found[name] = torch.stack([part.sum(0) for part in rows.split(n)])
            found[f"{name}2"] = torch.stack([part.sum(0) for part in rows.square_().split(n)])
        del found["r2"]
        sound = torch.stack([part.all() for part in finite.split(own)])
        sound &= found["dh2"].isfinite().all(1)
        if not sound.all():
            name = ids[indices[some[sound.int().argmin()]]]
            raise ValueError(f"question {name}: features are not finite; try dtype: float32")
        places = torch.tensor([indices[i] % ROWS for i in some], device=r.device)
        for name, values in found.items():
            if name not in into:
                into[name] = values.new_zeros(min(ROWS, len(ids)), *values.shape[1:])
            into[name].index_add_(0, places, values)


def stacked(sums: dict, ids: Sequence[str], sae, features=None) -> FeatureStats:
    """What `add_sums` added, as one FeatureStats."""
    columns = np.arange(sae.cfg.d_sae) if features is None else np.asarray(features)
    rows = {name: values.cpu().numpy() for name, values in sums.items()}
    return FeatureStats(ids=tuple(ids)[:ROWS], features=columns, **rows)


def _passes(queries: dict, longest: int, sides: Sequence, layers, tokens: int) -> Iterator[tuple]:
    """(indices, residuals of each of `sides`) of queries of like length, read together: padded
    tokens, and caches of contexts up to the `longest` copied for them, as there is room. Where the
    GPU has none after all, a batch is halved."""
    cached = batches.cached_tokens(sides[0][0], tokens)

    def fits(batch, index):
        width, size = len(queries[index]), len(batch) + 1
        alike = width <= PADDING * len(queries[batch[0]])
        return alike and size * width <= tokens and size * (longest + width) <= cached

    order = sorted(queries, key=lambda i: (len(queries[i]), i))
    todo = list(batches.greedy(order, fits))[::-1]
    while todo:
        batch, rows = todo.pop(), []
        read = [queries[i] for i in batch]
        try:
            rows += [query_residuals(model, cache, read, layers) for model, cache in sides]
        except torch.cuda.OutOfMemoryError:
            if len(batch) == 1:
                raise
        if rows:
            yield batch, rows
            continue
        # here, not in the except block: the exception holds what did not fit
        log.warning("CUDA out of memory with %d queries a batch: going on with half", len(batch))
        torch.cuda.empty_cache()
        half = len(batch) // 2
        todo += [batch[half:], batch[:half]]


@torch.inference_mode()
def sink_norm(model, prompts: Sequence[Prompt]) -> float:
    """Residual norm above which a token is an attention sink: 10 × the median over `prompts`."""
    rows = whole_rows(model, [prompt.ids for prompt in prompts])
    median = torch.cat([row[1:].norm(dim=-1) for row in rows]).median().item()
    if not np.isfinite(median):
        raise ValueError("the model's residual stream is not finite; try dtype: float32")
    return saes.SINK_FACTOR * median


def whole_rows(model, prompts: Sequence[Sequence[int]]) -> Iterator[torch.Tensor]:
    """The residual rows [tokens, d_model] of each whole prompt, by a truncated model."""
    for ids in prompts:
        ids = torch.tensor([ids], device=model.device)
        yield model(input_ids=ids, use_cache=False).last_hidden_state[0].float()


@torch.inference_mode()
def stream_stats(pairs: Pairs, model, hook: Hook, max_rows=10_000, generated=None) -> FeatureStats:
    """Paired sums over the rows of two streams, whatever tokens they are. Never the default.
    A stream is every token of a condition's prompts in order (header, demonstrations, query, and
    the tokens of `generated[example_id, condition]`), its first `max_rows` rows without sinks."""
    generated, streams = generated or {}, []
    for prompts in zip(*pairs, strict=True):
        rows = []
        ids = [[*p.ids, *generated.get((p.example_id, p.condition), ())] for p in prompts]
        for hidden in tqdm(whole_rows(model, ids), total=len(ids), desc="stream", leave=False):
            rows.append(hidden[hidden.norm(dim=-1) < hook.sink_norm])
            if sum(map(len, rows)) >= max_rows:
                break
        streams.append(torch.cat(rows)[:max_rows].to(hook.sae.device))
    size = min(map(len, streams))
    lengths = [len(block) for block in torch.arange(size).split(-(-size // BLOCKS))]
    names, sums = [f"rows-{i}" for i in range(len(lengths))], {}
    every, sides = hook._replace(sink_norm=np.inf), [stream[:size] for stream in streams]
    add_sums(sums, range(len(lengths)), lengths, sides, every, None, names)
    return stacked(sums, names, hook.sae)
