"""A finished run on one page: every figure and table, and what it says about the paper's claims."""

import html as markup
import itertools
import math
import re
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import jinja2
import pandas as pd

from sts_utils.config import Profile
from sts_utils.store import FIGURES, ROOT


class Item(NamedTuple):
    """A figure or table of the paper, and the stage whose notebook makes it."""

    name: str
    title: str
    kind: Literal["figure", "table"] = "figure"
    notebook: str = "06_plot"


#: As a reader of the paper meets them: figures, tables, then what the paper does not show.
ORDER = (
    Item("fig1a", "Fig 1a: how the change by SFT is spread over SAE features"),
    Item("fig1b", "Fig 1b: mathematics while shifted or random features are zeroed"),
    Item("fig2a", "Fig 2a: overlap of the dims that demonstrations find and those that SFT moves"),
    Item("fig2b", "Fig 2b: how concentrated the change is, SAE and raw"),
    Item("fig3", "Fig 3: score before training, change after it"),
    Item("fig4a", "Fig 4a: width of the SAE"),
    Item("fig4b", "Fig 4b: layer of the SAE"),
    Item("fig4c", "Fig 4c: sparsity of the SAE"),
    Item("fig4d", "Fig 4d: which ranks of shifted dims"),
    Item("fig4e", "Fig 4e: STS and probes"),
    Item("fig5", "Fig 5: extra training data by domain"),
    Item("fig6", "Fig 6: reinforcement learning"),
    Item("fig7", "Fig 7: selective fine-tuning"),
    Item("table1", "Table 1: other training sets", "table"),
    Item("tables2_4", "Tables 2–4: change of performance in each domain", "table", "05_evaluate"),
    Item("table5", "Table 5: baselines", "table"),
    Item("table6", "Table 6: Pearson correlation", "table"),
    Item("table7", "Table 7: what the shifted dims are about", "table"),
    Item("table8", "Table 8: recall of labelled dims", "table"),
    Item("table9", "Table 9: R²", "table"),
    Item("table10", "Table 10: mathematics after STS-guided data", "table"),
    Item("table11", "Table 11: selective fine-tuning", "table"),
    Item("table12", "Table 12: correlation against L0", "table"),
    Item("table13", "Table 13: probes", "table"),
    Item("rollouts", "Reinforcement learning: the model's own answers as demonstrations", "table"),
    Item("control_judgement", "Positive control: what each score finds", "table", "07_control"),
    Item("control_goals", "Positive control: goals, and what was reached", "table", "07_control"),
    Item("control_heat_paper", "Positive control: the paper's score and the change", "figure", "07_control"),
    Item("control_heat", "Positive control: the contrastive score and the change", "figure", "07_control"),
    Item("control_heat_probability", "Positive control: the change of P(gold)", "figure", "07_control"),
    Item("control_ranks", "Positive control: rank of the training domain", "figure", "07_control"),
    Item("control_change", "Positive control: did training move its own domain?", "table", "07_control"),
    Item("control_sizes", "Positive control: N of D_N, design half", "figure", "07_control"),
    Item("control_design", "Positive control: scores on the design half", "table", "07_control"),
    Item("control_all", "Positive control: all sets and seeds", "table", "07_control"),
    Item("control_agreement", "Positive control: D_N and the features that SFT moved", "table", "07_control"),
    Item("control_sign", "Positive control: the sign", "table", "07_control"),
    Item("control_generic", "Positive control: what is generic in a shift", "figure", "07_control"),
    Item("control_doses", "Positive control: dose of SFT", "figure", "07_control"),
    Item("training", "Training: did SFT teach its training set?", "figure", "04_finetune"),
)


def chosen(figures: str | None) -> set[str]:
    """The figures and tables asked for ("fig3 table6"); all if None. Raises ValueError for an unknown name."""
    known = [item.name for item in ORDER]
    names = set(figures.split()) if figures is not None else set(known)
    if unknown := sorted(names - set(known)):
        raise ValueError(f"FIGURES holds {unknown[0]!r}: choose from {' '.join(known)}")
    return names


VERDICTS = ("agrees", "does not", "inconclusive")
RULE = (
    "A claim's statistic has a 95% bootstrap interval over questions, seeds or random draws. The run agrees with the "
    "claim when the interval lies on the claim's side, does not when it lies on the other side, and is inconclusive "
    "when it holds both. The rule was fixed before looking at results; it judges claims, not digits, because the run "
    "may be of another scale than the paper's."
)
#: Of claims.csv: one row a claim, `figure` a name in ORDER.
COLUMNS = ("figure", "claim", "statistic", "value", "low", "high", "paper", "verdict")


def verdict(low: float, high: float, side: Literal["above", "below"] = "above") -> str:
    """Which of VERDICTS an interval gives a claim that its statistic is above (or below) 0."""
    if side not in ("above", "below"):
        raise ValueError(f"side is 'above' or 'below', not {side!r}")
    if side == "below":
        low, high = -high, -low
    if 0 < low <= high:
        return "agrees"
    return "does not" if low <= high < 0 else "inconclusive"


def html(profile: Profile, folder: Path) -> str:
    """The page of the run whose figures and tables are in `folder`, to lie beside them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined,
        autoescape=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("page.html.jinja").render(profile=profile, rule=RULE, **_contents(folder))


def markdown(profile: Profile, folder: Path, beside: bool = False) -> str:
    """The same in Markdown, with links from the repository's root, or from beside the figures."""
    run = _contents(folder)
    at, notebooks = ("", "../../notebooks") if beside else (f"figures/{quote(profile.name)}/", "notebooks")
    shown = {e["name"]: f"[{e['label']}]({at}{e['files'][0]})" for e in run["entries"]}
    lines = [
        "# Reproduction report", "",
        "Generated by `make reproduce` (`sts_utils/report.py`); edits to this file are lost.", "",
        f"Profile {_plain(profile.name)}: {_plain(profile.about)} Seeds {', '.join(map(str, profile.seeds))}. "
        f"The same with every table, to open in a browser: [{at}index.html]({at}index.html).", "",
        _plain(run["setting"] or f"Model {profile.model}, SAE {profile.sae}."), "",
    ]  # fmt: skip
    if run["claims"]:
        lines += [
            "## Claims", "", RULE, "", "; ".join(f"{v}: {n}" for v, n in run["counts"].items()) + ".", "",
            "| from | claim | statistic | ours [95% interval] | paper | verdict |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
    for c in run["claims"]:
        cells = (_plain(c[k]) for k in ("claim", "statistic", "ours", "paper", "verdict"))
        lines.append(f"| {' | '.join([shown.get(c['figure'], c['label']), *cells])} |")
    if run["missing"]:
        lines += ["", f"Not in this run: {', '.join(run['missing'])}."]
    for e in run["entries"]:
        picture = [f"![{e['title']}]({at}{e['files'][0]})", ""] if e["kind"] == "figure" else []
        links = [f"[{file}]({at}{file})" for file in e["files"]]
        links.append(f"[notebook {e['notebook']}]({notebooks}/{e['notebook']}.ipynb)")
        lines += ["", f"## {e['title']}", "", *picture, _plain(e["caption"]), "", " · ".join(links)]
    return "\n".join(lines) + "\n"


def write(profile: Profile) -> list[Path]:
    """Write index.html beside the figures, and REPRODUCTION.md: in the repository's root for its own run."""
    folder = FIGURES / profile.name
    folder.mkdir(parents=True, exist_ok=True)
    own = FIGURES == ROOT / "figures" and profile.name == "smol"
    paths = [folder / "index.html", (ROOT if own else folder) / "REPRODUCTION.md"]
    paths[0].write_text(html(profile, folder), encoding="utf-8")
    paths[1].write_text(markdown(profile, folder, beside=not own), encoding="utf-8")
    return paths


def _contents(folder: Path) -> dict:
    """What both texts show: what is in `folder`, in ORDER, with the claims about it."""
    claims = _claims(folder / "claims.csv")
    entries, missing = [], [] if claims else ["claims"]
    for item in ORDER:
        kinds = ("png", "pdf") if item.kind == "figure" else ("csv", "md", "tex")
        files = [f"{item.name}.{kind}" for kind in kinds if (folder / f"{item.name}.{kind}").exists()]
        if f"{item.name}.{kinds[0]}" not in files:
            missing.append(_label(item))
            continue
        text = folder / f"{item.name}.txt"
        entries.append(
            item._asdict() | {
                "label": _label(item), "files": files,
                "caption": text.read_text(encoding="utf-8").strip() if text.exists() else "",
                "claims": [c for c in claims if c["figure"] == item.name],
                "table": _table(folder / files[0]) if item.kind == "table" else None,
            }
        )  # fmt: skip
    setting = _shared_end([e["caption"] for e in entries if e["caption"]])
    for e in entries:
        e["caption"] = e["caption"].removesuffix(setting).strip()
    counts = {v: sum(c["verdict"] == v for c in claims) for v in VERDICTS}
    missing = list(dict.fromkeys(missing))
    return {"setting": setting, "entries": entries, "missing": missing, "claims": claims, "counts": counts}


def _shared_end(captions: list[str]) -> str:
    """The sentences that all captions end with (what the run is), to be said once."""
    if len(captions) < 2:
        return ""
    sentences = zip(*(reversed(c.split(". ")) for c in captions), strict=False)
    shared = itertools.takewhile(lambda said: len(set(said)) == 1, sentences)
    return ". ".join(said[0] for said in reversed(list(shared)))


def _claims(path: Path) -> list[dict[str, str]]:
    """The rows of claims.csv in ORDER, as text to show; none when there is no such file."""
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if absent := [c for c in COLUMNS if c not in table]:
        raise ValueError(f"{path}: no column {', '.join(absent)}")
    labels = {item.name: _label(item) for item in ORDER}
    for column, known in (("figure", list(labels)), ("verdict", VERDICTS)):
        if unknown := sorted(set(table[column]) - set(known)):
            raise ValueError(f"{path}: {column} {unknown[0]!r} is none of {', '.join(known)}")
    for column in ("value", "low", "high"):
        table[column] = [_number(float(text or "nan")) for text in table[column]]
    table["ours"] = table.value + " [" + table.low + ", " + table.high + "]"
    table["label"] = table.figure.map(labels)
    return table.sort_values("figure", key=lambda c: c.map(list(labels).index), kind="stable").to_dict("records")


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
    return f"{cell:.0f}" if cell.is_integer() or abs(cell) >= 999.5 else f"{cell:#.3g}".rstrip(".")


def _label(item: Item) -> str:
    return item.title.partition(":")[0]


def _plain(text: str) -> str:
    """Text that Markdown shows as it is and in one line, in a table's cell too."""
    text = markup.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\|`*$~]|(?<=])\()", r"\\\1", text)
