"""What a machine without GPU and a small SAE need in every process of a rehearsal.

accelerate shards over GPUs alone: the processes of a launch take CPU processes for GPUs. And
sae-lens knows the size of Gemma Scope's SAEs by their names: it is told the small one. And with
small models no answer is too long for the head at once: LOGITS makes it so.
"""

import importlib.abc
import importlib.util
import os
import sys


def shard_on_cpus(state) -> None:
    """accelerate.state: FSDP over CPU processes."""
    init = state.AcceleratorState.__init__

    def sharded(self, *args, fsdp_plugin=None, **options):
        init(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == state.DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = state.DistributedType.FSDP, fsdp_plugin
            if self.mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self.mixed_precision)
            state.PartialState._shared_state["distributed_type"] = self.distributed_type
            if written := os.environ.get("SHARDED"):
                with open(written, "a") as file:
                    file.write("sharded ")

    state.AcceleratorState.__init__ = sharded


def small_gemma_scope(loaders) -> None:
    """sae_lens.loading.pretrained_sae_loaders: Gemma Scope's SAEs of SAE_WIDTH."""
    width = int(os.environ["SAE_WIDTH"])
    real = loaders.get_gemma_2_config_from_hf

    def small(*args, **options):
        return real(*args, **options) | {"d_in": width, "d_sae": 2 * width}

    loaders.get_gemma_2_config_from_hf = small
    loaders.NAMED_PRETRAINED_SAE_CONFIG_GETTERS["gemma_2"] = small


CHANGES = {}
if os.environ.get("ACCELERATE_USE_FSDP"):
    CHANGES["accelerate.state"] = shard_on_cpus
if logits := os.environ.get("LOGITS"):  # fewer at once
    CHANGES["sts_utils.train"] = lambda train: setattr(train, "LOGITS", int(logits))
if os.environ.get("SAE_WIDTH"):
    CHANGES["sae_lens.loading.pretrained_sae_loaders"] = small_gemma_scope


class Changing(importlib.abc.MetaPathFinder):
    """Changes a module right after it is imported: nothing heavy is imported before."""

    def find_spec(self, name, path, target=None):
        if name not in CHANGES:
            return None
        change = CHANGES.pop(name)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module

        def exec_module(module):
            run(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


if CHANGES:
    sys.meta_path.insert(0, Changing())
