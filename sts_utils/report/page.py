"""A finished run on one page: every figure and table, and what it says about the paper's claims."""

import html as markup
import math
import re
from pathlib import Path
from urllib.parse import quote

import jinja2
import pandas as pd

from sts_utils.config import Profile
from sts_utils.control import tables as control
from sts_utils.experiments import EXPERIMENTS
from sts_utils.results import RULE, VERDICTS, Result, by_claim
from sts_utils.store import FIGURES, ROOT

#: As a reader of the paper meets them: figures, tables, then what the paper does not show.
ORDER = (
    "Fig",
    "Table",
    "Reliability",
    "The paper",
    "Reinforcement",
    "Positive control",
    "Training",
)


def _place(result: Result) -> tuple[int, int]:
    """A result's place on the page: of its kind in ORDER, then the number of a table."""
    kind = next(i for i, start in enumerate(ORDER) if result.title.startswith(start))
    return kind, int(re.search(r"\d+", result.title)[0]) if kind == 1 else 0


_MADE = [*(r for experiment in EXPERIMENTS for r in experiment.RESULTS), *control.RESULTS]
RESULTS: tuple[Result, ...] = tuple(sorted(_MADE, key=_place))


def chosen(figures: str | None) -> set[str]:
    """The names asked for ("fig3 table6"); all of the paper's experiments if None. ValueError for
    one that is unknown."""
    known = [result.name for result in RESULTS if result not in control.RESULTS]
    names = set(figures.split()) if figures is not None else set(known)
    if unknown := sorted(names - set(known)):
        raise ValueError(f"FIGURES holds {unknown[0]!r}: choose from {' '.join(known)}")
    return names


#: Of claims.csv: one row a claim, `figure` a name in RESULTS.
COLUMNS = ("figure", "claim", "statistic", "value", "low", "high", "paper", "verdict")


def html(profile: Profile, folder: Path) -> str:
    """The page of the run whose figures and tables are in `folder`, to lie beside them."""
    return _render("page.html.jinja", {"profile": profile} | _contents(folder), autoescape=True)


def markdown(profile: Profile, folder: Path, beside: bool = False) -> str:
    """The same in Markdown, with links from the project's root, or from beside the figures."""
    places = {"at": f"figures/{quote(profile.name)}/", "notebooks": "notebooks"}
    if beside:
        places = {"at": "", "notebooks": "../../notebooks"}
    values = {"profile": profile} | places | _contents(folder)
    return _render("page.md.jinja", values, finalize=_plain)


def write(profile: Profile) -> list[Path]:
    """index.html beside the figures, and REPRODUCTION.md: in the project's root for its own run."""
    folder = FIGURES / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    own = FIGURES == ROOT / "figures" and profile.name == "smol"
    paths = [folder / "index.html", (ROOT if own else folder) / "REPRODUCTION.md"]
    paths[0].write_text(html(profile, folder), encoding="utf-8")
    paths[1].write_text(markdown(profile, folder, beside=not own), encoding="utf-8")
    return paths


def _render(template: str, values: dict, **escape) -> str:
    """A template with values, each escaped as `escape` says."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    settings = {"trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    settings |= {"undefined": jinja2.StrictUndefined, "loader": loader, **escape}
    return jinja2.Environment(**settings).get_template(template).render(values)


def _contents(folder: Path) -> dict:
    """What both texts show: what is in `folder`, in RESULTS, with the claims about it."""
    claims = _claims(folder / "claims.csv")
    entries = [entry for result in RESULTS if (entry := _entry(result, folder))]
    for entry in entries:
        entry["claims"] = [c for c in claims if c["figure"] == entry["name"]]
    shown = {entry["name"]: entry["files"][0] for entry in entries}
    missing = [_label(result) for result in RESULTS if result.name not in shown]
    return {
        "rule": RULE,
        "setting": _said_once(entries),
        "entries": entries,
        "shown": shown,
        "missing": list(dict.fromkeys([*([] if claims else ["claims"]), *missing])),
        "claims": claims,
        "verdicts": _by_claim(claims),
    }


def _entry(result: Result, folder: Path) -> dict | None:
    """A figure or table as the page shows it; None if it is not in `folder`."""
    kinds = ("png", "pdf") if result.kind == "figure" else ("csv", "md", "tex")
    paths = [folder / f"{result.name}.{kind}" for kind in kinds]
    if not paths[0].exists():
        return None
    text = folder / f"{result.name}.txt"
    said = text.read_text(encoding="utf-8") if text.exists() else ""
    caption, _, setting = said.strip().partition("\n")
    return {
        "name": result.name,
        "title": result.title,
        "kind": result.kind,
        "notebook": result.notebook,
        "label": _label(result),
        "files": [path.name for path in paths if path.exists()],
        "caption": caption,
        "setting": setting.strip(),
        "table": _table(paths[0]) if result.kind == "table" else None,
    }


def _said_once(entries: list[dict]) -> str:
    """The setting that the captions share; one that has another says so in its caption."""
    settings = [entry["setting"] for entry in entries if entry["setting"]]
    shared = max(settings, key=settings.count, default="")
    for entry in entries:
        if entry["setting"] not in ("", shared):
            entry["caption"] += f" {entry['setting']}"
    return shared


def _claims(path: Path) -> list[dict[str, str]]:
    """The rows of claims.csv in RESULTS, as text to show; none when there is no such file."""
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if absent := [c for c in COLUMNS if c not in table]:
        raise ValueError(f"{path}: no column {', '.join(absent)}")
    labels = {result.name: _label(result) for result in RESULTS}
    for column, known in (("figure", list(labels)), ("verdict", VERDICTS)):
        if unknown := sorted(set(table[column]) - set(known)):
            raise ValueError(f"{path}: {column} {unknown[0]!r} is none of {', '.join(known)}")
    for column in ("value", "low", "high"):
        table[column] = [_number(float(text or "nan")) for text in table[column]]
    table["ours"] = table.value + " [" + table.low + ", " + table.high + "]"
    table["label"] = table.figure.map(labels)
    place = list(labels).index
    ordered = table.sort_values("figure", key=lambda c: c.map(place), kind="stable")
    return ordered.to_dict("records")


def _by_claim(claims: list[dict[str, str]]) -> dict[str, list[dict]]:
    """Verdict -> the claims that have it, each once: claim, figure, label and paper."""
    if not claims:
        return {}
    first = {c["claim"]: c for c in reversed(claims)}
    summed = by_claim(pd.DataFrame(claims)).to_dict("records")
    return {v: [first[row["claim"]] for row in summed if row["verdict"] == v] for v in VERDICTS}


def _table(path: Path) -> dict[str, list]:
    """A table's column names, its cells as text, and which columns are numbers."""
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    rows = [[_number(cell) for cell in row] for row in table.itertuples(index=False, name=None)]
    numeric = [pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes]
    return {"columns": list(table.columns), "rows": rows, "numeric": numeric}


def _number(cell: object) -> str:
    """A cell as text: a fraction in 3 significant digits, a dash for a missing one."""
    if not isinstance(cell, float):
        return str(cell)
    if math.isnan(cell):
        return "–"
    if cell.is_integer() or abs(cell) >= 999.5:
        return f"{cell:.0f}"
    return f"{cell:#.3g}".rstrip(".")


def _label(result: Result) -> str:
    return result.title.partition(":")[0]


def _plain(value: object) -> str:
    """A value as text that Markdown shows as it is and in one line, in a table's cell too."""
    text = markup.escape(" ".join(str(value).split()), quote=False)
    return re.sub(r"([\\|`*$~]|(?<=])\()", r"\\\1", text)
