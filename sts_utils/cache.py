"""Results of functions, kept in data/runs: computed once, read ever after.

    @cached("model", "sae", "train", "shift")
    def train_features(profile, seed): ...

The folder's name ends in a hash of all that the result depends on: the sections of the profile that
the decorator names, the content of the corpora, models and SAEs among them, the arguments, the
versions of the libraries, and the code of this package that the function reaches, without comments
and docstrings. made.json in it says what they were, and the hash of each file."""

import ast
import functools
import importlib.metadata
import importlib.util
import inspect
import json
import logging
import shutil
import textwrap
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from sts_utils import batches, corpora, models, saes, store
from sts_utils.config import Profile

log = logging.getLogger(__name__)
LIBRARIES = ("torch", "transformers", "trl", "sae-lens", "lm-eval", "numpy", "reasoning-gym")
#: Modules whose code is in no key: settings are there by their values.
NOT_CODE = ("sts_utils.config", "sts_utils.cache", "sts_utils.store")
_verified: set[Path] = set()


class Cached:
    """A function of (profile, …) whose result is kept: a DataFrame, a dict of arrays, or a dict of
    such dicts, of which `part` names the one that is read. With `folder` the function is given one,
    `out`, to write into, and its path is the result. Among the arguments a tuple (another such
    function, its arguments, …) is a fine-tuned model: it enters the key as all it depends on."""

    def __init__(self, function: Callable, sections: tuple[str, ...], folder: bool):
        functools.update_wrapper(self, function)
        self.function, self.sections, self.folder = function, sections, folder

    def __reduce__(self) -> str:  # of a copy in another process: by name
        return self.__name__

    def __call__(self, profile: Profile, *args, part: str | None = None):
        path = self.path(profile, *args)
        file = part and f"{part}.safetensors".replace("/", "__")
        if path.exists() and not _whole(path, file):
            log.warning("%s is damaged: computing it again", path)
            shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            with store.atomic_folder(path) as out:
                result = self.function(profile, *args, **({"out": out} if self.folder else {}))
                if isinstance(result, pd.DataFrame):
                    result.to_parquet(out / "table.parquet", index=False)
                elif result:
                    one = isinstance(next(iter(result.values())), np.ndarray)
                    for name, arrays in ({"arrays": result} if one else result).items():
                        save_file(arrays, out / f"{name}.safetensors".replace("/", "__"))
                files = [file for file in out.rglob("*") if file.is_file()]
                hashes = {str(file.relative_to(out)): store.file_hash(file) for file in files}
                made = {"recipe": self.recipe(profile, *args), "files": hashes}
                (out / "made.json").write_text(json.dumps(made, indent=1, default=str))
        if self.folder:
            return path
        if (path / "table.parquet").exists():
            return pd.read_parquet(path / "table.parquet")
        arrays = path / (file or "arrays.safetensors")
        return load_file(arrays) if arrays.exists() else None  # of several, none was asked for

    def path(self, profile: Profile, *args) -> Path:
        """Where the result lies, or will lie."""
        return store.RUNS / f"{self.__name__}-{store.digest(self.recipe(profile, *args))}"

    def recipe(self, profile: Profile, *args) -> dict:
        """All that the result depends on: of a model its folder's name, of a long text a hash."""
        settings, said = {}, []
        for name in self.sections:
            value = functools.reduce(getattr, name.split("."), profile)
            settings[name] = value.model_dump() if hasattr(value, "model_dump") else value
        while args and args[-1] is None:  # a default that was written out
            args = args[:-1]
        for value in args:
            if isinstance(value, tuple) and value and isinstance(value[0], Cached):
                said.append(value[0].path(profile, *value[1:]).name)
            else:
                said.append(text if len(text := repr(value)) < 200 else store.digest(text))
        contents = {name: CONTENTS[name](profile) for name in self.sections if name in CONTENTS}
        about = {"settings": settings, "contents": contents, "arguments": said}
        return about | {"versions": versions(), "code": code(self.function)}


def cached(*sections: str, folder: bool = False) -> Callable[[Callable], Cached]:
    """Keep what a function makes of `sections` of the profile, like "sft" or "shift.held_out"."""
    return lambda function: Cached(function, sections, folder)


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the libraries that compute."""
    return {package: importlib.metadata.version(package) for package in LIBRARIES}


def _whole(path: Path, only: str | None) -> bool:
    """Whether the files of an artifact (or one) match their hashes: looked at once in a process."""
    try:
        hashes = json.loads((path / "made.json").read_text())["files"]
        asked = {path / file: hashes[file] for file in ([only] if only else hashes)}
        found = {file for file in asked.keys() - _verified if store.file_hash(file) == asked[file]}
    except (OSError, ValueError, KeyError):
        return False
    _verified.update(found)
    return asked.keys() <= _verified


def _model(profile: Profile):
    """The version of a packaged model's wheel, or a local folder's files."""
    if profile.model in models.PACKAGED:
        return importlib.metadata.version(models.PACKAGED[profile.model][0])
    return None if profile.model in models.RANDOM else _files(Path(profile.model))


def _files(folder: Path | None) -> list[tuple[str, int, int]] | None:
    """Names, sizes and times of a folder that is here: other ones when a file was written."""
    if folder is None or not folder.is_dir():
        return None
    found = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


#: What a section that only names something stands for now.
CONTENTS: dict[str, Callable[[Profile], object]] = {
    "model": _model,
    "sae": lambda p: _files(saes.folder_of(p.sae)),
    "sweep": lambda p: [_files(saes.folder_of(name)) for name in p.saes],
    "engine": lambda p: batches.engine(p.engine),
    "train": lambda p: corpora.content(p.train),
    "domains": lambda p: corpora.content(p.domains),
    "demonstrations": lambda p: corpora.content(p.demonstrations),
    "labels": lambda p: [corpora.content(name) for name in (p.labels.code, p.labels.dialogue)],
    "evaluation.mathematics": lambda p: (m := p.evaluation.mathematics) and corpora.content(m),
}


def without_docstrings(tree: ast.AST) -> ast.AST:
    """A syntax tree (in place) in which a change of words is none."""
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
        if documented and ast.get_docstring(node):
            node.body[0].value.value = ""
    return tree


@functools.cache
def code(function: Callable) -> str:
    """A hash of the functions, classes and constants of this package that `function` reaches."""
    found, todo = {}, [function]
    while todo:
        item = todo.pop()
        if (name := f"{item.__module__}.{item.__qualname__}") not in found:
            found[name], more, constants = _reached(item)
            found |= constants
            todo += more
    return store.digest(found)


@functools.cache
def _reached(item) -> tuple[str, list, dict[str, str]]:
    """(the hash of an item's syntax tree, the items of this package that it names, constants)."""
    tree = without_docstrings(ast.parse(textwrap.dedent(inspect.getsource(item))))
    names, attributes, items, constants = set(), set(), [], {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sts_utils"):
            for alias in node.names:  # not loaded yet: the whole file
                lazy = f"{node.module}.{alias.name}".split(".")[1]
                spec = importlib.util.find_spec(f"sts_utils.{lazy}")
                file = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
                constants[lazy] = store.digest(ast.dump(without_docstrings(file)))
    scope = vars(inspect.getmodule(item))
    for name in sorted(names & scope.keys()):
        value, things = scope[name], {f"{item.__module__}.{name}": scope[name]}
        if isinstance(value, types.ModuleType) and value.__name__.startswith("sts_utils"):
            named = attributes & vars(value).keys()
            things = {f"{value.__name__}.{n}": vars(value)[n] for n in sorted(named)}
        for place, thing in things.items():
            module = getattr(thing, "__module__", None) or ""
            if module.startswith("sts_utils") and module not in NOT_CODE and callable(thing):
                items.append(inspect.unwrap(thing))  # of a Cached its function
            elif isinstance(thing, int | float | str | tuple):
                constants[place] = repr(thing)
    return store.digest(ast.dump(tree)), items, constants
