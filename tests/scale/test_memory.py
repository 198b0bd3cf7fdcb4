"""What a GPU holds while the paper's models are fine-tuned, over eight or alone, by fake tensors.

The own loss at the real shapes, 8,192 tokens, with checkpointing; over eight in float32 and with
FSDP2, alone in bfloat16. No number is computed and no memory taken. `make check` reads what is
found from data/models.yaml.
"""

import json
import os
import subprocess
import sys
import types

import pytest
from rehearsal.families import NAMES, PUBLIC

from sts_utils import config, store
from sts_utils.scale import cost

GPUS = 8


def count(name: str, gpus: int) -> dict[str, float]:
    """GB at the peak of a forward and a backward pass on one of `gpus`: kind of tensor -> GB."""
    import torch
    from torch import distributed
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed._tools.mem_tracker import MemTracker
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoModelForCausalLM

    from sts_utils.engines import accelerate
    from sts_utils.training import sft

    made, dims = PUBLIC[name]
    settings, dtype = config.load(name).sft, "bfloat16"  # as the profile for one GPU
    if gpus > 1:
        accelerate.repeat_keys()
        dtype = settings.dtype
        distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=gpus)
        mesh = distributed.device_mesh.init_device_mesh("cpu", (gpus,))
    # as models.load_model chooses: a soft cap leaves no fused attention
    attention = "eager" if dims.get("attn_logit_softcapping") else "sdpa"
    how = {"attn_implementation": attention, "dtype": getattr(torch, dtype)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(made(**dims), **how).train()
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for block in (*model.model.layers, model) if gpus > 1 else ():
            fully_shard(block, mesh=mesh)
        rows = torch.zeros(settings.micro_batch, settings.max_length, dtype=torch.long)

        def forward(self, ids):
            """sft.answers_loss where every token is an answer's: how many is no fake number."""
            hidden = self.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            return sft.losses_in_parts(self, hidden.flatten(0, 1), ids[:, 1:].flatten()).sum()

        model.forward = types.MethodType(forward, model)
        if gpus > 1:
            tracker = FSDPMemTracker(model)
            tracker.track_inputs((rows,))
        else:
            tracker = MemTracker()
            tracker.track_external(model, rows)
        with tracker:
            model(rows).backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    return {str(getattr(kind, "value", kind)): size / 1e9 for kind, size in peak.items()}


def counted(name: str, gpus: int) -> dict[str, float]:
    """`count` in a process of its own, as its process group wants."""
    told = os.environ | {"PYTHONPATH": os.pathsep.join([str(store.ROOT / "tests"), *sys.path])}
    words = [sys.executable, __file__, name, str(gpus)]
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_gpu_holds_beside_its_shards_is_the_table_s(name):
    held = counted(name, GPUS)
    shards, shape = held["Sharded Param"], cost.listed()[config.load(name).model]
    assert shards == pytest.approx(4 * shape.parameters / GPUS / 1e9, rel=0.02)
    beside = held["Total"] - shards - held["Sharded Grad"]
    assert shape.working == pytest.approx(beside, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_one_gpu_holds_beside_weights_and_gradients_is_the_table_s(name):
    """An H100 held 16.4 GB for eight blocks of Llama's, where this counts 12.4 (docs/scale.md)."""
    held, shape = counted(name, 1), cost.listed()[config.load(name).model]
    assert held["Parameter"] == pytest.approx(2 * shape.parameters / 1e9, rel=0.01)
    beside = held["Total"] - held["Parameter"] - held["Gradient"]
    assert shape.alone == pytest.approx(beside, rel=0.05)


if __name__ == "__main__":
    print(json.dumps(count(sys.argv[1], int(sys.argv[2]))))
