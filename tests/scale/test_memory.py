"""What one GPU holds while the paper's models are fine-tuned over eight, counted by fake tensors.

The launched process's own loss at the real shapes, 8,192 tokens in float32, with checkpointing and
FSDP2; no number is computed and no memory taken. `make check` reads what is found from
data/models.yaml.
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


def count(name: str) -> dict[str, float]:
    """GB at the peak of a forward and a backward pass: kind of tensor -> GB."""
    import torch
    from torch import distributed
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
    from torch.distributed.fsdp import fully_shard
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoModelForCausalLM

    from sts_utils.engines import accelerate
    from sts_utils.training import sft

    accelerate.repeat_keys()
    made, dims = PUBLIC[name]
    settings = config.load(name).sft
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=GPUS)
    mesh = distributed.device_mesh.init_device_mesh("cpu", (GPUS,))
    # as models.load_model chooses: a soft cap leaves no fused attention
    attention = "eager" if dims.get("attn_logit_softcapping") else "sdpa"
    how = {"attn_implementation": attention, "dtype": getattr(torch, settings.dtype)}
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(made(**dims), **how).train()
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        for block in (*model.model.layers, model):
            fully_shard(block, mesh=mesh)
        rows = torch.zeros(settings.micro_batch, settings.max_length, dtype=torch.long)

        def forward(self, ids):
            """sft.answers_loss where every token is an answer's: how many is no fake number."""
            hidden = self.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            return sft.loss_in_parts(self, hidden.flatten(0, 1), ids[:, 1:].flatten())

        model.forward = types.MethodType(forward, model)
        tracker = FSDPMemTracker(model)
        tracker.track_inputs((rows,))
        with tracker:
            model(rows).backward()
        (peak,) = tracker.get_tracker_snapshot("peak").values()
    return {str(getattr(kind, "value", kind)): size / 1e9 for kind, size in peak.items()}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_a_gpu_holds_beside_its_shards_is_the_table_s(name):
    told = os.environ | {"PYTHONPATH": os.pathsep.join([str(store.ROOT / "tests"), *sys.path])}
    words = [sys.executable, __file__, name]  # the process group is a process's own
    done = subprocess.run(words, env=told, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    held = json.loads(done.stdout.splitlines()[-1])
    shards, shape = held["Sharded Param"], cost.listed()[config.load(name).model]
    assert shards == pytest.approx(4 * shape.parameters / GPUS / 1e9, rel=0.02)
    beside = held["Total"] - shards - held["Sharded Grad"]
    assert shape.working == pytest.approx(beside, rel=0.05)


if __name__ == "__main__":
    print(json.dumps(count(sys.argv[1])))
