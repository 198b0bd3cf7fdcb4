"""What runs inside vLLM: which query rows are computed, read from the residual stream, summed.

vLLM imports this module in its own processes: `QueryScheduler` in the engine, `ResidualReader` in
every worker. A request says what it is in its `extra_args`: {"pair": place in the batch, "side": 0
plain or 1 icl, "start", "stop": the query's span}.
"""

import numpy as np
import torch
from safetensors.torch import save
from vllm.v1.core.sched.scheduler import Scheduler

from sts_utils import features as extract
from sts_utils import saes
from sts_utils.features import Hook


class QueryScheduler(Scheduler):
    """vLLM's scheduler, but the prefix cache serves a request's context only: its query is always
    computed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        manager, coordinator = self.kv_cache_manager, self.kv_cache_manager.coordinator
        cached, longest = manager.get_computed_blocks, coordinator.find_longest_cache_hit

        def get_computed_blocks(request):
            context = request.sampling_params.extra_args["start"]
            coordinator.find_longest_cache_hit = lambda hashes, most: longest(
                hashes, min(most, context)
            )
            return cached(request)

        manager.get_computed_blocks = get_computed_blocks


class ResidualReader:
    """Worker extension: hooks on decoder layers keep the query's residual rows until a batch of
    pairs is summed; the sums stay until the end."""

    def sts_install(self, hooks: list, ids: list) -> None:
        """From now on read the residual stream for `hooks`: (layer, folder of the SAE, sink_norm)
        each, of pairs with these example ids."""
        for handle in getattr(self, "sts_handles", ()):
            handle.remove()
        if self.rank:  # the residual stream is replicated over tensor-parallel ranks
            return
        held, folders = getattr(self, "sts_saes", {}), {folder for _, folder, _ in hooks}
        self.sts_saes = {folder: held.get(folder) or self._sts_sae(folder) for folder in folders}
        self.sts_hooks = [Hook(layer, self.sts_saes[folder], norm) for layer, folder, norm in hooks]
        self.sts_ids, self.sts_pooled = ids, [{} for _ in hooks]
        self.sts_layers = sorted({hook.layer for hook in self.sts_hooks})
        blocks = self.model_runner.get_model().model.layers
        self.sts_handles = [
            blocks[layer].register_forward_hook(self._sts_reading(layer))
            for layer in self.sts_layers
        ]

    def _sts_sae(self, folder: str):
        return saes.SAE.load_from_disk(folder, device=str(self.device)).eval().requires_grad_(False)

    def sts_begin(self, indices: list, lengths: list) -> None:
        """A batch of these pairs, with queries of these lengths, comes next."""
        if self.rank:
            return
        self.sts_indices, self.sts_lengths = indices, lengths
        self.sts_starts = np.cumsum([0, *lengths])
        self.sts_place = np.full((2, self.sts_starts[-1]), -1)  # condition, query token -> row kept
        self.sts_kept, self.sts_rows = 0, {layer: [] for layer in self.sts_layers}

    def _sts_reading(self, layer: int):
        def hook(_module, _inputs, output):
            if layer == self.sts_layers[0]:  # the same rows for every layer of this step
                self.sts_index = self._sts_select()
            if len(self.sts_index):
                hidden = output[0] + output[1] if isinstance(output, tuple) else output
                self.sts_rows[layer].append(hidden[self.sts_index])

        return hook

    def _sts_select(self) -> torch.Tensor:
        """Which of this step's flattened rows are query tokens; remembers whose they are."""
        runner, chosen = self.model_runner, [np.zeros(0, dtype=np.int64)]
        batch, offsets = runner.input_batch, runner.query_start_loc.np
        for i, name in enumerate(batch.req_ids):
            asked = runner.requests[name].sampling_params.extra_args
            first = int(batch.num_computed_tokens_cpu[i])  # the request's first row in this step
            last = first + int(offsets[i + 1] - offsets[i])
            tokens = np.arange(max(asked["start"], first), min(asked["stop"], last))
            place = self.sts_starts[asked["pair"]] + tokens - asked["start"]
            self.sts_place[asked["side"], place] = self.sts_kept + np.arange(len(tokens))
            self.sts_kept += len(tokens)
            chosen.append(offsets[i] + tokens - first)
        return torch.from_numpy(np.concatenate(chosen).astype(np.int64)).to(self.device)

    def sts_add(self) -> str | None:
        """Add the batch's sums to each hook's; or what is wrong, in one line."""
        if self.rank:
            return None
        missing = (self.sts_place < 0).any(0)
        if missing.any():
            pair = int(np.searchsorted(self.sts_starts, missing.argmax(), side="right")) - 1
            skipped = f"vLLM skipped {missing.sum()} query tokens of this batch"
            return f"{skipped}, first in question {self.sts_ids[self.sts_indices[pair]]}"
        place = torch.from_numpy(self.sts_place).to(self.device)
        rows = {layer: torch.cat(chunks) for layer, chunks in self.sts_rows.items()}
        try:
            with torch.inference_mode():
                for hook, pooled in zip(self.sts_hooks, self.sts_pooled, strict=True):
                    sides = [rows[hook.layer][side].float() for side in place]
                    of = self.sts_indices, self.sts_lengths, sides, hook, None, self.sts_ids
                    extract.add_sums(pooled, *of)
        except ValueError as error:
            return str(error)
        finally:
            self.sts_rows = {}
        return None

    def sts_sums(self, number: int) -> bytes | None:
        """The sums of hook `number`, a row a pair, as safetensors; they are let go."""
        if self.rank:
            return None
        pooled, self.sts_pooled[number] = self.sts_pooled[number], {}
        return save(pooled)
