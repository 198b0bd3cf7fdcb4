"""The models and SAEs of a run: what a process holds, and the fine-tuned models of the store."""

import copy
import gc
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from sts_utils import batches, corpora, models, prompts, saes, store
from sts_utils import features as extract
from sts_utils.config import Profile
from sts_utils.features import Hook
from sts_utils.prompts import Prompt
from sts_utils.runs import engine, recipes, samples
from sts_utils.sae_training import activations

# --- held in memory ----------------------------------------------------------------------------


@lru_cache(maxsize=2)  # the untouched model and one fine-tuned one
def _truncated(name: str, layer: int, dtype: str, revision: str | None, _content: str | None):
    torch.set_num_threads(batches.cpu_threads())
    return models.load_truncated(name, layer, dtype, revision)


def _model(profile: Profile) -> tuple:
    """What `_truncated` is told: the content too, for another model may come to lie there."""
    content = recipes.model_content(profile.model, profile.revision)
    return profile.model, profile.layer, profile.dtype, profile.revision, content


@cache
def _sae(name: str, d_in: int, layer: int, _content: str | None):
    return saes.load(name, d_in, layer)  # in main memory


@cache
def _sae_on(device: str, *sae):
    loaded = _sae(*sae)
    return loaded if device == "cpu" else copy.deepcopy(loaded).to(device)


def backbone(profile: Profile, folder: Path | None = None):
    """The profile's model (or a fine-tuned one, of `folder`) up to the SAE's layer."""
    if folder:
        return _truncated(str(folder), profile.layer, profile.dtype, None, None)
    return _truncated(*_model(profile))


def sae(profile: Profile, device: str | None = None):
    """The profile's SAE, on the device that models run on if no other is named."""
    width = models.check(profile.model, profile.layer, profile.revision)
    told = profile.sae, width, profile.layer, recipes.sae_content(profile.sae)
    return _sae_on(device or models.device(), *told)


def sink_norm(profile: Profile) -> float:
    """The attention-sink threshold of the profile's model, from 16 plain prompts."""
    return _sink_norm(*_model(profile))


@cache  # not by the whole profile: vLLM may fill the GPU when another variant of it asks
def _sink_norm(*model) -> float:
    return extract.sink_norm(_truncated(*model), _first_prompts(model[0], model[3]))


def hook(profile: Profile, device: str | None = None) -> Hook:
    """The profile's SAE at its layer, with the threshold above which rows are sinks.

    Raises ValueError, in one line, for an SAE that is not of the model, as 16 prompts show.
    """
    check_sae(profile)
    return Hook(profile.layer, sae(profile, device), sink_norm(profile))


def check_sae(profile: Profile) -> None:
    """`saes.check` on the plain prompts that the sink threshold is from."""
    if not saes.RANDOM.fullmatch(profile.sae):
        _check_sae(profile.sae, recipes.sae_content(profile.sae), *_model(profile))


@cache
def _check_sae(name: str, content: str | None, *model) -> None:
    width = models.check(model[0], model[1], model[3])
    read = _sae_on(models.device(), name, width, model[1], content)
    ids = [list(prompt.ids) for prompt in _first_prompts(model[0], model[3])]
    saes.check(read, name, list(activations(_truncated(*model), ids, 4096)))


def _first_prompts(model: str, revision: str | None) -> list[Prompt]:
    """The same for every run of a model: what is stored of a domain serves all training sets."""
    tokenizer = samples.tokenizer(model, revision)
    return [prompts.chat_prompt(tokenizer, e) for e in corpora.load("gsm-symbolic", 0, 16)]


def load_whole(profile: Profile, model: "TrainedModel | None" = None):
    """The whole model to evaluate: untouched (None) or fine-tuned."""
    torch.set_num_threads(batches.cpu_threads())
    where = str(model.folder()) if model else profile.model
    release()
    revision = None if model else profile.revision
    return models.load_model(where, profile.evaluation.dtype, revision)


def release(engines: bool = True) -> None:
    """Give the GPU back before another process or a whole model needs it: cached models and SAEs,
    and vLLM's engine unless `engines` is False. On a CPU those stay: loading takes time."""
    if torch.cuda.is_available():
        if engines:
            engine.close()
        _truncated.cache_clear()
        _sae_on.cache_clear()
    gc.collect()  # a Trainer, with its model and optimizer, lies in a reference cycle
    torch.cuda.empty_cache()


# --- SAEs beside the profile's own -------------------------------------------------------------


def with_sae(profile: Profile, name: str) -> Profile:
    """The same run read through another SAE, at its layer."""
    return profile.model_copy(update={"sae": name, "layer": saes.layer(name)})


def sweep(profile: Profile) -> list[Profile]:
    """The run read through each SAE of Fig 4a–c beside the profile's own."""
    swept = {*profile.sweep.widths, *profile.sweep.layers, *profile.sweep.sparsities}
    return [with_sae(profile, name) for name in sorted(swept - {profile.sae})]


# --- fine-tuned models -------------------------------------------------------------------------


class TrainedModel(NamedTuple):
    """A fine-tuned model that is, or can be, in the store.

    `key` names it; `folder()` is where it lies, trained now if it is missing.
    """

    key: str
    folder: Callable[[], Path]


def train_once(
    profile: Profile, train: Callable[[Path], pd.DataFrame], *keys: str, **more
) -> TrainedModel:
    """The model that `train(out)` leaves in `out`; its training log becomes `log.parquet`.

    `keys`, `more`: what it depends on beside the untouched model (recipes.of).
    """
    recipe = recipes.of(profile, "model", "revision", *keys, **more)

    def make(out: Path) -> None:
        release()
        train(out).to_parquet(out / "log.parquet", index=False)
        release()

    key = store.path("trained", recipe).name
    return TrainedModel(key, lambda: store.folder("trained", recipe, make))


def finetune(profile: Profile, seed: int) -> TrainedModel:
    """The model after SFT on the training set."""

    def train(out: Path) -> pd.DataFrame:
        chosen = samples.training_examples(profile, seed)[0][: profile.sft.examples]
        return engine.sft(profile, profile.sft, chosen, seed, out)

    return train_once(profile, train, "train", "sft", held_out=profile.shift.held_out, seed=seed)


def training_logs(trained: Mapping[object, TrainedModel]) -> pd.DataFrame:
    """The logs of several models, a column `run` naming each."""
    logs = {name: pd.read_parquet(m.folder() / "log.parquet") for name, m in trained.items()}
    return pd.concat([log.assign(run=name) for name, log in logs.items()])
