"""Prepare a closed cluster: what a profile needs from the hub, into a folder for `STS_MIRROR`."""

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import yaml

from sts_utils import config, corpora, models
from sts_utils.config import Profile
from sts_utils.store import ROOT

#: Beside what `fetch` writes: where it is from, and the commit that the hub resolved.
RECORD = "fetched.json"


class Need(NamedTuple):
    """Something of the hub that a profile reads: kind "dataset", "model" or "sae" (of sae-lens,
    "release/sae_id"). Without `revision` it is not pinned; if not `required` it has a stand-in."""

    kind: str
    name: str
    revision: str | None = None
    split: str = ""
    config: str | None = None
    required: bool = True

    def __str__(self) -> str:
        where = f" ({self.split})" if self.split else ""
        pinned = f" @{self.revision}" if self.revision else ""
        return f"{self.kind:<8} {self.name}{where}{pinned}"

    @property
    def repo_type(self) -> str:
        """What the hub calls its kind: SAEs are models there."""
        return "dataset" if self.kind == "dataset" else "model"


class Hub:
    """What is asked of the hub."""

    def commit(self, kind: str, name: str, revision: str | None) -> str:
        """The commit that a revision stands for."""
        from huggingface_hub import HfApi

        return HfApi().repo_info(name, repo_type=kind, revision=revision).sha

    def write(self, need: Need, commit: str, to: Path) -> None:
        """A dataset as the parquet file `to`; a model's or an SAE's files in the folder `to`."""
        if need.kind == "dataset":
            import datasets

            rows = datasets.load_dataset(need.name, need.config, split=need.split, revision=commit)
            rows.to_parquet(str(to))
        elif need.kind == "model":
            from huggingface_hub import snapshot_download

            files = list(models.FILES)
            snapshot_download(need.name, revision=commit, local_dir=to, allow_patterns=files)
        else:  # sae-lens takes no revision: the commit of the time is recorded
            from sae_lens import SAE

            release, _, sae_id = need.name.partition("/")
            SAE.from_pretrained(release, sae_id).save_model(to)


def needs(profile: Profile) -> list[Need]:
    """What `profile` reads from the hub or the mirror, each once, datasets first."""
    p, sweep = profile, profile.sweep
    names = [p.train, p.domains, p.demonstrations, *p.others, p.grpo.train]
    names += [p.labels.code, p.labels.dialogue]
    names += [name for name in p.control.sets if name in corpora.names()]
    listed = {}
    for need in (need for name in names for need in _datasets(name)):
        listed.setdefault((need.name, need.split), need)
    if p.model not in (*models.PACKAGED, *models.RANDOM) and not Path(p.model).is_dir():
        listed[p.model] = Need("model", p.model, p.revision)
    for name in (p.sae, *sweep.widths, *sweep.layers, *sweep.sparsities):
        if not name.startswith("random-") and not (ROOT / name).is_dir():
            listed[name] = Need("sae", name)
    return list(listed.values())


def _datasets(corpus: str) -> Iterator[Need]:
    """What a corpus reads from the hub: a stand-in makes what comes before it optional."""
    entry = corpora.entry(corpus)
    if entry.hub:
        own = [entry.hub.get(key) for key in ("path", "revision", "split", "name")]
        yield Need("dataset", *own, required=not entry.fallback)
    if entry.fallback:
        yield from _datasets(entry.fallback)


def place(need: Need, folder: Path) -> Path:
    """Where `need` lies in a mirror: a parquet file, or a folder."""
    return folder / need.name / (f"{need.split}.parquet" if need.kind == "dataset" else "")


def fetched(need: Need, folder: Path) -> bool:
    """Whether a mirror holds `need`, whole: what `fetch` writes appears at once or not at all."""
    last = {"dataset": "", "model": "config.json", "sae": "cfg.json"}[need.kind]
    return (place(need, folder) / last).exists()


def repository(need: Need) -> str:
    """The hub repository that holds `need`: for an SAE, the one behind its sae-lens release."""
    if need.kind != "sae":
        return need.name
    release, _, sae_id = need.name.partition("/")
    listed = _listed_saes().get(release)
    if listed is None or sae_id not in {entry["id"] for entry in listed["saes"]}:
        site = "https://decoderesearch.github.io/SAELens"
        raise ValueError(f"SAE {need.name!r} is not in sae-lens's list: see {site}")
    return listed["repo_id"]


@cache
def _listed_saes() -> dict[str, dict]:
    """sae-lens's list of public SAEs, read as a file: importing the package takes many seconds."""
    path = Path(find_spec("sae_lens").submodule_search_locations[0]) / "pretrained_saes.yaml"
    return yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)


def cached(need: Need) -> bool:
    """Whether the hub client's cache has something of the repository, of a model its weights."""
    from huggingface_hub.constants import HF_HUB_CACHE

    name = repository(need).replace("/", "--")
    snapshots = Path(HF_HUB_CACHE) / f"{need.repo_type}s--{name}" / "snapshots"
    return any(snapshots.glob("*/*.safetensors" if need.kind == "model" else "*"))


def at_hand(need: Need) -> bool:
    """Whether `need` can be read without asking the hub: from ``$STS_MIRROR``, or its cache."""
    mirror = os.environ.get("STS_MIRROR")
    return bool(mirror and fetched(need, Path(mirror))) or cached(need)


def fetch(profile: Profile, folder: Path | str, hub: Hub | None = None, log=print) -> list[Need]:
    """Put what `profile` needs into `folder`, laid out for `STS_MIRROR`; returns what is new.

    Datasets are parquet files, models the hub's files, SAEs in sae-lens's format (safetensors,
    whatever the original). What is there is skipped. The commit that the hub resolved is written
    beside it. Raises ValueError, in one line, where something required can't be had; what was
    fetched stays.
    """
    hub, folder, done = hub or Hub(), Path(folder), []
    for need in needs(profile):
        if fetched(need, folder):
            log(f"there      {need}")
            continue
        try:
            commit = hub.commit(need.repo_type, repository(need), need.revision)
            _write(need, commit, folder, hub)
            log(f"fetched    {need} at {commit}")
            done.append(need)
        except Exception as error:  # the hub client raises a dozen unrelated types
            first, *_ = str(error).split("\n")
            why = f"{need} can't be fetched ({type(error).__name__}: {first})"
            if need.required:
                raise ValueError(why) from None
            log(f"skipped    {why}; the profile has a stand-in")
    return done


def _write(need: Need, commit: str, folder: Path, hub: Hub) -> None:
    """One need into the mirror, at once or not at all, with its record."""
    record = {"kind": need.kind, "name": need.name, "split": need.split}
    record |= {"repository": repository(need), "asked": need.revision, "commit": commit}
    target = place(need, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part") as scratch:
        made = Path(scratch) / target.name
        hub.write(need, commit, made)
        beside = made / RECORD if made.is_dir() else target.with_name(f"{need.split}.{RECORD}")
        beside.write_text(json.dumps(record, indent=1))
        shutil.rmtree(target, ignore_errors=True)  # torn
        os.replace(made, target)


def add_parser(commands) -> None:
    """The command `fetch`: `fetch --profile paper --folder /data/mirror`, or `--list`."""
    add, mirror = commands.add_parser, os.environ.get("STS_MIRROR")
    command = add("fetch", help="put what a profile needs from the hub into a folder")
    command.add_argument("--profile", default="smol", help="a name in profiles/, or a YAML file")
    command.add_argument("--folder", default=mirror, help="the mirror; $STS_MIRROR if left out")
    command.add_argument("--list", action="store_true", help="only say what it needs and has")
    command.set_defaults(run=main)


def main(chosen: argparse.Namespace) -> int:
    """Run the command `fetch`; returns the exit code. Raises one-line ValueErrors."""
    profiles, folder = config.load_all(chosen.profile), chosen.folder
    if chosen.list:
        for need in dict.fromkeys(need for profile in profiles for need in needs(profile)):
            absent = "missing" if need.required else "optional"
            there = folder and fetched(need, Path(folder))
            print(f"{'there' if there else absent:<8} {need}")
        return 0
    if not folder:
        raise ValueError("no folder to fetch into: give --folder, or set STS_MIRROR")
    for profile in profiles:
        fetch(profile, folder)
    print(f"everything is in {folder}: run with STS_MIRROR={folder}")
    return 0
