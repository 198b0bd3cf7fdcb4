"""The recipe of an artifact: its settings, and what the names among them stand for now."""

from sts_utils import corpora, models, saes, store
from sts_utils.config import Profile


def of(profile: Profile, *keys: str, **more) -> dict:
    """The settings `keys` of a profile and `more`; of a corpus, a model and an SAE that is named
    the content too, so that another one under the same name is not taken for it."""
    values = profile.model_dump()
    contents = {key: CONTENTS[key](values[key]) for key in keys if key in CONTENTS}
    return {key: values[key] for key in keys} | {"contents": contents} | more


def model_content(name: str) -> str | None:
    """Of a model's folder; None for one of a wheel or of the hub, pinned by version or commit."""
    if name in models.PACKAGED or name in models.RANDOM:
        return None
    folder = models.resolve(name)
    return None if isinstance(folder, str) else store.content(folder, models.FILES)


def sae_content(name: str) -> str | None:
    """Of an SAE's folder; None for one that sae-lens fetches, or that a seed makes."""
    folder = saes.folder_of(name)
    return store.content(folder, models.FILES) if folder else None


CONTENTS = {"model": model_content, "sae": sae_content}
CONTENTS |= dict.fromkeys(("train", "domains", "demonstrations"), corpora.content)
