"""Prepare a closed cluster: everything a profile needs from the hub, into a folder that `STS_MIRROR` then names."""

import argparse
import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import yaml

from sts_utils import config, models
from sts_utils.config import Profile
from sts_utils.corpora import data
from sts_utils.store import ROOT, atomic_folder

#: Beside what `fetch` writes: where it is from, and the commit that the hub resolved.
RECORD = "fetched.json"
#: Corpora that fall back to another: what they would rather read, and what they can do with.
FALLBACKS = {"limo-or-gsm8k": ("limo", "gsm8k"), "mmlu-pro-cot": ("mmlu-pro-cot", None)}


class Need(NamedTuple):
    """Something of the hub that a profile reads. `revision` None: not pinned, whatever the hub has now.

    `split` and `config` are a dataset's; `name` of an SAE is "release/sae_id" of sae-lens. One that is
    not `required` has a stand-in that the profile names.
    """

    kind: str
    name: str
    revision: str | None = None
    split: str = ""
    config: str | None = None
    required: bool = True


class Hub(NamedTuple):
    """What is asked of the hub; the tests put their own in its place."""

    commit: Callable[[str, str, str | None], str]
    """(kind, repository, revision) -> the commit it stands for."""
    dataset: Callable[[Need, str], object]
    """(need, commit) -> a `datasets.Dataset`."""
    model: Callable[[str, str, Path], object]
    """(name, commit, folder): the model's files, written to the folder."""
    sae: Callable[[str], object]
    """name -> a sae-lens SAE."""


def needs(profile: Profile) -> list[Need]:
    """What `profile` reads from the hub or the mirror: (kind, name, revision, …), each once, datasets first."""
    found = []
    corpora = [
        profile.train, profile.domains, profile.demonstrations, *profile.others, profile.grpo.train,
        profile.labels.code, profile.labels.dialogue,
    ]  # fmt: skip
    corpora += [name for name in profile.control.sets if name in data.CORPORA]
    for corpus in corpora:
        rather, otherwise = FALLBACKS.get(corpus, (corpus, corpus))
        for name, required in ((rather, rather == otherwise), (otherwise, True)):
            if name in data.HUB and not any(n[1:4] == _dataset(data.HUB[name])[1:4] for n in found):
                found.append(_dataset(data.HUB[name])._replace(required=required))
    if profile.model not in (*models.PACKAGED, *models.RANDOM) and not Path(profile.model).is_dir():
        found.append(Need("model", profile.model, profile.revision))
    sweep = profile.sweep
    for name in dict.fromkeys([profile.sae, *sweep.widths, *sweep.layers, *sweep.sparsities]):
        if not name.startswith("random-") and not (ROOT / name).is_dir():
            found.append(Need("sae", name))
    return found


def _dataset(source: data.HubSet) -> Need:
    return Need("dataset", source.name, source.revision, source.split, source.config)


def place(need: Need, folder: Path) -> Path:
    """Where `need` lies in a mirror: a parquet file, or a folder."""
    return folder / need.name / f"{need.split}.parquet" if need.kind == "dataset" else folder / need.name


def fetched(need: Need, folder: Path) -> bool:
    """Whether a mirror holds `need`, whole: what `fetch` writes appears at once or not at all."""
    whole = {"dataset": "", "model": "config.json", "sae": "cfg.json"}[need.kind]
    return (place(need, folder) / whole if whole else place(need, folder)).exists()


def repository(need: Need) -> str:
    """The hub repository that holds `need`: for an SAE, the one behind its sae-lens release."""
    if need.kind != "sae":
        return need.name
    release, _, sae_id = need.name.partition("/")
    listed = _listed_saes().get(release)
    if listed is None or sae_id not in {entry["id"] for entry in listed["saes"]}:
        raise ValueError(f"SAE {need.name!r} is not in sae-lens's list: see https://decoderesearch.github.io/SAELens")
    return listed["repo_id"]


@cache
def _listed_saes() -> dict[str, dict]:
    """sae-lens's list of public SAEs, read as a file: importing the package takes many seconds."""
    path = Path(find_spec("sae_lens").submodule_search_locations[0]) / "pretrained_saes.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def cached(need: Need) -> bool:
    """Whether the hub client's own cache has something of the repository of `need`; of a model, its weights."""
    from huggingface_hub.constants import HF_HUB_CACHE

    kind = "dataset" if need.kind == "dataset" else "model"
    snapshots = Path(HF_HUB_CACHE) / f"{kind}s--{repository(need).replace('/', '--')}" / "snapshots"
    return any(snapshots.glob("*/*.safetensors" if need.kind == "model" else "*"))


def at_hand(need: Need) -> bool:
    """Whether `need` can be read without asking the hub: from ``$STS_MIRROR``, or the hub client's cache."""
    mirror = os.environ.get("STS_MIRROR")
    return bool(mirror and fetched(need, Path(mirror))) or cached(need)


def fetch(profile: Profile, folder: Path | str, hub: Hub | None = None, log=print) -> list[Need]:
    """Put what `profile` needs into `folder`, in the layout that `STS_MIRROR` names; returns what was fetched now.

    Datasets become `<org>/<name>/<split>.parquet`, models `<org>/<name>/` with the hub's files, SAEs
    `<release>/<sae_id>/` in sae-lens's format (safetensors, whatever the original). What is there is
    skipped. The commit that the hub resolved is written beside it (`fetched.json`) and used for the download.
    Raises ValueError, in one line, where something required can't be had; what was fetched stays.
    """
    hub, folder, done = hub or HUGGING_FACE, Path(folder), []
    for need in needs(profile):
        if fetched(need, folder):
            log(f"there      {_line(need)}")
            continue
        try:
            commit = hub.commit("dataset" if need.kind == "dataset" else "model", repository(need), need.revision)
            _write(need, commit, folder, hub)
        except Exception as error:  # the hub client raises a dozen unrelated types
            why = f"{_line(need)} can't be fetched ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
            if need.required:
                raise ValueError(why) from None
            log(f"skipped    {why}; the profile has a stand-in")
            continue
        log(f"fetched    {_line(need)} at {commit}")
        done.append(need)
    return done


def _write(need: Need, commit: str, folder: Path, hub: Hub) -> None:
    """One need into the mirror, at once or not at all, with its record."""
    target = place(need, folder)
    record = {"kind": need.kind, "name": need.name, "repository": repository(need), "asked": need.revision}
    record |= {"commit": commit}
    if need.kind == "dataset":
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_suffix(f".{os.getpid()}.part")
        try:
            hub.dataset(need, commit).to_parquet(str(scratch))
            os.replace(scratch, target)
        finally:
            scratch.unlink(missing_ok=True)
        (target.parent / f"{need.split}.{RECORD}").write_text(json.dumps(record | {"split": need.split}, indent=1))
        return
    with atomic_folder(target) as out:
        if need.kind == "model":
            hub.model(need.name, commit, out)
        else:
            hub.sae(need.name).save_model(out)
        (out / RECORD).write_text(json.dumps(record, indent=1))


def _line(need: Need) -> str:
    where = f" ({need.split})" if need.split else ""
    pinned = f" @{need.revision}" if need.revision else ""
    return f"{need.kind:<8} {need.name}{where}{pinned}"


def _hub_commit(kind: str, name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi

    return HfApi().repo_info(name, repo_type=kind, revision=revision).sha


def _hub_dataset(need: Need, commit: str):
    import datasets

    return datasets.load_dataset(need.name, need.config, split=need.split, revision=commit)


def _hub_model(name: str, commit: str, folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(name, revision=commit, local_dir=folder, allow_patterns=list(models.FILES))


def _hub_sae(name: str):
    from sae_lens import SAE

    release, _, sae_id = name.partition("/")
    return SAE.from_pretrained(release, sae_id)


#: The real hub. sae-lens takes no revision: an SAE's record is the commit that its repository had at the time.
HUGGING_FACE = Hub(_hub_commit, _hub_dataset, _hub_model, _hub_sae)


def add_parser(commands) -> None:
    """The command `fetch` for run.main: `fetch --profile paper --folder /data/mirror`, or `--list`."""
    command = commands.add_parser("fetch", help="put what a profile needs from the hub into a folder, for STS_MIRROR")
    command.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
    command.add_argument("--folder", default=os.environ.get("STS_MIRROR"), help="the mirror; $STS_MIRROR if left out")
    command.add_argument("--list", action="store_true", help="only say what it needs, and what is there")
    command.set_defaults(run=main)


def main(chosen: argparse.Namespace) -> int:
    """Run the command `fetch`; returns the exit code. Raises one-line ValueErrors."""
    profiles = config.load_all(chosen.profile)
    if chosen.list:
        return _list(profiles, chosen.folder)
    if not chosen.folder:
        raise ValueError("no folder to fetch into: give --folder, or set STS_MIRROR")
    for profile in profiles:
        fetch(profile, chosen.folder)
    print(f"everything is in {chosen.folder}: run with STS_MIRROR={chosen.folder}")
    return 0


def _list(profiles: Iterable[Profile], folder: str | None) -> int:
    for need in dict.fromkeys(need for profile in profiles for need in needs(profile)):
        state = "there  " if folder and fetched(need, Path(folder)) else "missing" if need.required else "optional"
        print(f"{state:<8} {_line(need)}")
    return 0
