"""Prepare a closed cluster: what a profile needs from the hub, into a folder for `STS_MIRROR`."""

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.file_download import repo_folder_name

from sts_utils import config, corpora, models, saes
from sts_utils.config import Profile
from sts_utils.runs import samples
from sts_utils.store import FETCHED, ROOT


class Need(NamedTuple):
    """Something of the hub that a profile reads: kind "dataset", "model" or "sae" (of sae-lens,
    "release/sae_id"). Without `revision` it is not pinned."""

    kind: str
    name: str
    revision: str | None = None
    split: str = ""
    config: str | None = None

    def __str__(self) -> str:
        where = f" ({self.split})" if self.split else ""
        pinned = f" @{self.revision}" if self.revision else ""
        return f"{self.kind:<8} {self.name}{where}{pinned}"

    @property
    def repo_type(self) -> str:
        """What the hub calls its kind: SAEs are models there."""
        return "dataset" if self.kind == "dataset" else "model"


def needs(profile: Profile) -> list[Need]:
    """What `profile` reads from the hub or the mirror, each once, datasets first."""
    p, listed = profile, {}
    for hub in (of.hub for of in map(corpora.entry, samples.corpora_of(p)) if of.hub):
        need = Need("dataset", *(hub.get(key) for key in ("path", "revision", "split", "name")))
        listed.setdefault((need.name, need.split), need)
    if p.model not in (*models.PACKAGED, *models.RANDOM) and not Path(p.model).is_dir():
        listed[p.model] = Need("model", p.model, p.revision)
    swept = (*p.sweep.widths, *p.sweep.layers, *p.sweep.sparsities) if p.runs_paper else ()
    for name in (p.sae, *swept):
        if not name.startswith("random-") and not Path(ROOT, name).is_dir():
            listed[name] = Need("sae", name)
    return list(listed.values())


def repository(need: Need) -> str:
    """The hub repository that holds `need`: for an SAE, the one behind its sae-lens release."""
    if need.kind != "sae":
        return need.name
    release, _, sae_id = need.name.partition("/")
    listed = saes.get_pretrained_saes_directory().get(release)
    if listed is None or sae_id not in listed.saes_map:
        site = "https://decoderesearch.github.io/SAELens"
        raise ValueError(f"SAE {need.name!r} is not in sae-lens's list: see {site}")
    return listed.repo_id


def place(need: Need, folder: Path) -> Path:
    """Where `need` lies in a mirror: a parquet file, or a folder."""
    return folder / need.name / (f"{need.split}.parquet" if need.kind == "dataset" else "")


def fetched(need: Need, folder: Path) -> bool:
    """Whether a mirror holds `need`, whole (what `fetch` writes appears at once or not at all), and
    not of another commit."""
    last = {"dataset": "", "model": "config.json", "sae": "cfg.json"}[need.kind]
    return (place(need, folder) / last).exists() and not other_commit(need, folder)


def other_commit(need: Need, folder: Path) -> str | None:
    """The commit of what a mirror holds, where its record says that it is not the pinned one."""
    written = _record(need, place(need, folder))
    if need.revision is None or not written.exists():  # put there by hand
        return None
    try:
        said = json.loads(written.read_text())
        known, commit = (said["commit"], said["revision"]), said["commit"]
    except (ValueError, KeyError, TypeError):
        return f"unknown ({written} can't be read)"
    return None if need.revision in known else commit


def _record(need: Need, at: Path) -> Path:
    """Where it is noted of what lies at a place of the mirror whence it is, and of which commit."""
    return at.with_name(f"{need.split}.{FETCHED}") if need.kind == "dataset" else at / FETCHED


def cached(need: Need) -> bool:
    """Whether the hub client's cache has something of the repository, of a model its weights."""
    name = repo_folder_name(repo_id=repository(need), repo_type=need.repo_type)
    files = "*/*.safetensors" if need.kind == "model" else "*/*"
    return any(Path(HF_HUB_CACHE, name, "snapshots").glob(files))


def at_hand(need: Need) -> bool:
    """Whether `need` can be read without asking the hub: from ``$STS_MIRROR``, or its cache."""
    mirror = os.environ.get("STS_MIRROR")
    return bool(mirror and fetched(need, Path(mirror))) or cached(need)


def fetch(profile: Profile, folder: Path | str) -> list[Need]:
    """Put what `profile` needs into `folder`, laid out for `STS_MIRROR`; returns what is new.

    Datasets are parquet files, models the hub's files, SAEs in sae-lens's format (safetensors,
    whatever the original). What is there is skipped. The commit that the hub resolved is written
    beside it. Raises ValueError, in one line, where something can't be had; what was fetched stays.
    """
    done = []
    for need in needs(profile):
        if fetched(need, Path(folder)):
            print(f"there      {need}")
            continue
        try:
            commit = hub_commit(need)
            _write(need, commit, Path(folder))
        except Exception as error:  # the hub client raises a dozen unrelated types
            first, *_ = str(error).split("\n")
            why = f"{need} can't be fetched ({type(error).__name__}: {first})"
            raise ValueError(why) from None
        print(f"fetched    {need} at {commit}")
        done.append(need)
    return done


def _write(need: Need, commit: str, folder: Path) -> None:
    """One need into the mirror, at once or not at all, with its record."""
    record = need._asdict() | {"repository": repository(need), "commit": commit}
    target = place(need, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".part") as scratch:
        made = Path(scratch) / target.name
        download(need, commit, made)
        if target.is_dir():  # torn, or of another commit
            shutil.rmtree(target)
        told = json.dumps(record, indent=1)
        if made.is_dir():
            _record(need, made).write_text(told)
        os.replace(made, target)
    if not target.is_dir():
        _record(need, target).write_text(told)


def hub_commit(need: Need) -> str:
    """The commit of the hub that a need's revision stands for."""
    return HfApi().repo_info(repository(need), revision=need.revision, repo_type=need.repo_type).sha


def download(need: Need, commit: str, to: Path) -> None:
    """A dataset as the parquet file `to`; a model's or an SAE's files in the folder `to`."""
    if need.kind == "dataset":
        import datasets

        rows = datasets.load_dataset(need.name, need.config, split=need.split, revision=commit)
        rows.to_parquet(str(to))
    elif need.kind == "model":
        files = list(models.FILES)
        snapshot_download(need.name, revision=commit, local_dir=to, allow_patterns=files)
    else:  # sae-lens takes no revision: the commit of the time is recorded
        release, _, sae_id = need.name.partition("/")
        saes.SAE.from_pretrained(release, sae_id).save_model(to)


def run(chosen: argparse.Namespace) -> int:
    """The command `fetch`: options profile, folder and list. Raises one-line ValueErrors."""
    profiles, folder = config.load_all(chosen.profile), chosen.folder
    if chosen.list:
        for need in dict.fromkeys(need for profile in profiles for need in needs(profile)):
            there = folder and fetched(need, Path(folder))
            print(f"{'there' if there else 'missing':<8} {need}")
        return 0
    if not folder:
        raise ValueError("no folder to fetch into: give --folder, or set STS_MIRROR")
    for profile in profiles:
        fetch(profile, folder)
    print(f"everything is in {folder}: run with STS_MIRROR={folder}")
    return 0
