"""What a GPU holds while the paper's models are fine-tuned, over eight or alone, and while GRPO
samples and updates, by fake tensors.

The own loss at the real shapes, 8,192 tokens, with checkpointing; over eight in float32 and with
FSDP2, alone in bfloat16. No number is computed and no memory taken. `make check` reads what is
found from data/models.yaml.
"""

import json
import os
import subprocess
import sys
import types
from functools import cache

import pytest
import torch
from rehearsal.families import NAMES, PUBLIC
from torch import distributed
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoModelForCausalLM

from sts_utils import batches, config, grpo, models, store
from sts_utils import features as method
from sts_utils import train as sft
from sts_utils.scale import cost

GPUS = 8
#: Tokens of a context of five worked answers, and of its SAE's features.
CONTEXT = 6144
FEATURES = {"llama3-8b": 65_536, "qwen2.5-7b": 131_072, "gemma2-9b": 131_072}
#: Tokens that a question of mathematics may have before what GRPO samples.
QUESTION = 512


def count(name: str, gpus: int, stage: str) -> dict[str, float]:
    """GB at the peak of `stage` on one of `gpus`: kind of tensor -> GB."""
    made, dims = PUBLIC[name]
    profile = config.load(name)
    dtype = profile.grpo.dtype  # bfloat16: what one GPU does
    if gpus > 1:
        sft.repeat_keys()
        dtype = profile.sft.dtype
        distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
        mesh = distributed.device_mesh.init_device_mesh("cpu", (gpus,))
    # as models.load_model chooses: a soft cap leaves no fused attention
    attention = "eager" if dims.get("attn_logit_softcapping") else "sdpa"
    how = {"attn_implementation": attention, "dtype": getattr(torch, dtype)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(made(**dims), **how).train()
        if profile.sft.gradient_checkpointing and stage in ("sft", "grpo"):
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for block in (*model.model.layers, model) if gpus > 1 else ():
            fully_shard(block, mesh=mesh)
        prepared = STAGES[stage](model, profile)
        model.forward = types.MethodType(prepared, model)
        rows = torch.zeros(1, 1, dtype=torch.long)
        if gpus > 1:
            tracker = FSDPMemTracker(model)
            tracker.track_inputs((rows,))
        else:
            tracker = MemTracker()
            tracker.track_external(model, rows)
        with tracker:
            if (loss := model(rows)) is not None:
                loss.backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    return {str(getattr(kind, "value", kind)): size / 1e9 for kind, size in peak.items()}


def tune(model, profile):
    """SFT's own loss, on rows where every token is an answer's: how many is no fake number."""

    def loss(self, _):
        ids = torch.zeros(profile.sft.micro_batch, profile.sft.max_length, dtype=torch.long)
        hidden = self.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        return sft.losses_in_parts(self, hidden.flatten(0, 1), ids[:, 1:].flatten()).sum()

    return loss


def reinforce(model, profile):
    """GRPO's update: the completions of one question."""

    def loss(self, _):
        written = profile.grpo.completion_tokens
        ids = torch.zeros(profile.grpo.generations, QUESTION + written, dtype=torch.long)
        hidden = self.model(input_ids=ids, use_cache=False).last_hidden_state[:, -written - 1 : -1]
        return sft.losses_in_parts(self, hidden.flatten(0, 1), ids[:, -written:].flatten()).sum()

    return loss


def sample(model, profile):
    """GRPO's sampling, transformers' way: all that is cached as the last token is written."""

    def forward(self, _):
        rows = grpo.TOGETHER * profile.grpo.generations
        ids = torch.zeros(rows, QUESTION, dtype=torch.long)
        with torch.no_grad():
            cache = self.model(input_ids=ids, use_cache=True).past_key_values
            for layer in cache.layers:
                size = (rows, layer.keys.shape[1], profile.grpo.completion_tokens)
                new = torch.zeros(*size, layer.keys.shape[3], dtype=layer.keys.dtype)
                layer.update(new, new.clone())
            self.model(input_ids=ids[:, :1], past_key_values=cache, use_cache=True)

    return forward


def extract(model, profile):
    """As many queries as extraction reads at once behind one long context, on a GPU of 80 GB, and
    their rows through the SAE: all that `feature_stats` has at its worst."""
    backbone = models.truncate(model, profile.layer)
    features, width = FEATURES[profile.name], model.config.hidden_size
    held = sum(p.nbytes for p in backbone.parameters()) + 8 * features * width
    batches.free_memory = lambda: 80e9 - held
    torch.cuda.is_available = lambda: True
    tokens = batches.batch_tokens()
    most = batches.cached_tokens(backbone, tokens) // (CONTEXT + QUESTION)
    rows = int(min(tokens // QUESTION, most))

    def forward(self, _):
        sae = torch.zeros(2, features, width)
        sums = torch.zeros(4, method.ROWS, features, dtype=torch.float64)
        with torch.no_grad(), models.reading(backbone, [profile.layer]) as read:
            cache = models.context_cache(backbone, [0] * CONTEXT)
            ids = torch.zeros(rows, QUESTION, dtype=torch.long)
            mask = torch.ones(rows, CONTEXT + QUESTION, dtype=torch.long)
            sides = []
            for _ in range(2):
                backbone(input_ids=ids, attention_mask=mask, **models.behind(cache, rows))
                sides.append(read[profile.layer].flatten(0, 1).float())
            h = [side[: method.ENCODED_ROWS] @ sae[0].T for side in sides]
            sums[0, 0] += (h[1] - h[0]).double().square_().sum(0)

    return forward


STAGES = {"sft": tune, "grpo": reinforce, "sampling": sample, "extraction": extract}


#: What is counted of a model: GPUs and stage.
COUNTS = ((GPUS, "sft"), (1, "sft"), (1, "grpo"), (1, "sampling"), (1, "extraction"))


@cache
def counted(name: str) -> dict[tuple[int, str], dict[str, float]]:
    """`count` of a model's COUNTS, in a process of their own, as a process group wants."""
    told = os.environ | {"PYTHONPATH": os.pathsep.join([str(store.ROOT / "tests"), *sys.path])}
    words = [sys.executable, __file__, name]
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(zip(COUNTS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_gpu_holds_beside_its_shards_is_the_table_s(name):
    held = counted(name)[GPUS, "sft"]
    shards, shape = held["Sharded Param"], cost.listed()[config.load(name).model]
    assert shards == pytest.approx(4 * shape.parameters / GPUS / 1e9, rel=0.02)
    beside = held["Total"] - shards - held["Sharded Grad"]
    assert shape.working == pytest.approx(beside, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_one_gpu_holds_beside_weights_and_gradients_is_the_table_s(name):
    """An H100 held 16.4 GB for eight blocks of Llama's, where this counts 12.4 (docs/scale.md)."""
    held, shape = counted(name)[1, "sft"], cost.listed()[config.load(name).model]
    assert held["Parameter"] == pytest.approx(2 * shape.parameters / 1e9, rel=0.01)
    beside = held["Total"] - held["Parameter"] - held["Gradient"]
    assert shape.alone == pytest.approx(beside, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_grpo_holds_beside_weights_and_gradients_is_the_table_s(name):
    """The larger of an update and of sampling, in the middle of which gradients wait."""
    shape = cost.listed()[config.load(name).model]
    update, sampled = counted(name)[1, "grpo"], counted(name)[1, "sampling"]
    beside = [update["Total"] - update["Parameter"] - update["Gradient"]]
    beside.append(sampled["Total"] - sampled["Parameter"])
    assert shape.grpo == pytest.approx(max(beside), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name, expected", zip(NAMES, (37.1, 41.8, 39.2), strict=True))
def test_extraction_leaves_half_of_a_gpu_of_80_gb(name, expected):
    """It takes a part of what is free: an H100 held 29 to 41 GB for Llama's (docs/scale.md)."""
    assert counted(name)[1, "extraction"]["Total"] == pytest.approx(expected, rel=0.05)


if __name__ == "__main__":
    for counting in COUNTS:
        if not os.fork():  # nothing to import again
            print(json.dumps(count(sys.argv[1], *counting)), flush=True)
            os._exit(0)
        assert not os.wait()[1]
