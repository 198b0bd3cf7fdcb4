"""The released code's reading of step 1 (`alignment: stream`): row i of one token stream against
row i of the other, whatever tokens they are. Never the default."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from tqdm import tqdm

from sts_utils import generation
from sts_utils.method import extract
from sts_utils.method.extract import FeatureStats, Hook
from sts_utils.method.prompts import Prompt

#: Blocks of rows that stand in for examples, so that a bootstrap can draw them again.
BLOCKS = 32


@torch.inference_mode()
def stream_stats(
    pairs: Sequence[tuple[Prompt, Prompt]],
    model,
    hook: Hook,
    max_rows: int = 10_000,
    generated: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> FeatureStats:
    """Paired sums over the rows of two streams.

    A stream is every token of a condition's prompts in order (header, demonstrations, query, and
    the tokens of `generated[example_id, condition]`), its first `max_rows` rows without sinks.
    """
    conditions = ([pair[side] for pair in pairs] for side in (0, 1))
    streams = [_stream(of, model, hook.sink_norm, max_rows, generated or {}) for of in conditions]
    rows = min(map(len, streams))
    lengths = [len(block) for block in torch.arange(rows).split(-(-rows // BLOCKS))]
    ids = [f"rows-{i}" for i in range(len(lengths))]
    every = hook._replace(sink_norm=np.inf)
    sides = [stream[:rows] for stream in streams]
    sums = {}
    extract.add_sums(sums, range(len(lengths)), lengths, sides, every, None, ids)
    return extract.stacked(sums, ids, hook.sae)


def _stream(prompts: Sequence[Prompt], model, sink_norm: float, max_rows: int, generated):
    """The first `max_rows` residual rows of whole prompts, one after the other."""
    rows, n = [], 0
    for prompt in tqdm(prompts, desc="stream", unit="prompt", leave=False):
        ids = [*prompt.ids, *generated.get((prompt.example_id, prompt.condition), ())]
        ids = torch.tensor([ids], device=model.device)
        hidden = model(input_ids=ids, use_cache=False).last_hidden_state[0].float()
        rows.append(hidden[hidden.norm(dim=-1) < sink_norm])
        n += len(rows[-1])
        if n >= max_rows:
            break
    return torch.cat(rows)[:max_rows]


def continuations(model, tokenizer, prompts: Sequence[Prompt], new_tokens: int) -> dict:
    """(example id, condition) -> ids of the whole model's greedy continuation of a prompt."""
    ids, greedy = [prompt.ids for prompt in prompts], {"do_sample": False}
    greedy |= {"max_new_tokens": new_tokens}  # the rest is the model's own
    rows = generation.continued(model, tokenizer, ids, 1, "generate", **greedy)
    keys = [(prompt.example_id, prompt.condition) for prompt in prompts]
    return dict(zip(keys, rows, strict=True))
