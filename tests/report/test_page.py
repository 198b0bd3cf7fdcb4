"""The report: parsed with html.parser, against the files that it shows."""

import csv
import math
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from sts_utils import results
from sts_utils.report import page as report

CLAIMS = [
    [
        "table6",
        "STS correlates with the change",
        "r",
        0.441847,
        -0.316398,
        0.544954,
        "0.60 to 0.90",
        "inconclusive",
    ],
    [
        "fig1a",
        "SFT moves few features",
        "share of the top 100",
        0.69342,
        0.6781,
        0.71749,
        "25%",
        "agrees",
    ],
    [
        "fig2a",
        "a | b\nsee [x](http://evil.example) <b>bold</b>",
        "overlap <i>",
        -0.1,
        -0.2,
        -0.05,
        "",
        "does not",
    ],
    [
        "fig4a",
        "wider SAEs predict worse",
        "slope",
        math.nan,
        math.nan,
        math.nan,
        "",
        "inconclusive",
    ],
]
SETTING = "Model some-model, SAE some-sae; 3 seeds. The paper: 7–9B models."


class Page(HTMLParser):
    """The parts of a page that the tests look at."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.images, self.links, self.ids, self.cells, self.badges, self.text = (
            [],
            [],
            [],
            [],
            [],
            [],
            "",
        )
        self.section, self.open = None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "section":
            self.section = attrs["id"]
        if tag == "img":
            self.images.append(attrs["src"])
        if tag == "a":
            self.links.append(attrs["href"])
        if tag in ("td", "th"):
            self.cells.append((self.section, ""))
        if "badge" in (attrs.get("class") or ""):
            self.badges.append((attrs["class"], ""))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.cells[-1] = (self.section, self.cells[-1][1] + data)
        if self.open and self.open[-1] == "span" and not self.badges[-1][1]:
            self.badges[-1] = (self.badges[-1][0], data)

    def row_cells(self, section):
        return [text for where, text in self.cells if where == section]


@pytest.fixture
def folder(tmp_path):
    out = tmp_path / "figures" / "tiny"
    out.mkdir(parents=True)
    for name in ("training", "fig2a", "fig1a"):
        (out / f"{name}.png").write_bytes(b"png")
        (out / f"{name}.pdf").write_bytes(b"pdf")
        (out / f"{name}.txt").write_text(
            f"About {name} <script>alert('{name}')</script>.\n{SETTING}\n"
        )
    (out / "table6.csv").write_text(
        "metric,n,r,p,x\nsts_act,14,0.441847,1234.5678,0.5\n"
        '"<script>x</script>",12345,-0.00123456,,-493.706\n'
        "none,0,0.0,8.0,23.04\n"
    )
    (out / "table6.md").write_text("table")
    (out / "table6.txt").write_text(f"Table 6. As it is.\n{SETTING}\n")
    with (out / "claims.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([report.COLUMNS, *CLAIMS])
    return out


@pytest.fixture
def page(profile, folder):
    return Page(report.html(profile, folder))


def test_every_file_referenced_exists_and_nothing_is_remote(page, folder):
    assert page.images == ["fig1a.png", "fig2a.png", "training.png"]
    local = [link for link in page.links if not link.startswith(("#", "../../notebooks/"))]
    assert {*local, *page.images} == {p.name for p in folder.iterdir()} - {"claims.csv"} - {
        f"{n}.txt" for n in ("fig1a", "fig2a", "training", "table6")
    }
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "base")
        for name in ("src", "href", "srcset", "style"):
            assert "//" not in (attrs.get(name) or "")
    text = (report.Path(report.__file__).parent / "page.html.jinja").read_text()
    assert not re.search(r"@import|url\(|https?:|\|\s*safe", text)


def test_order_is_the_paper_s(page):
    names = {result.name for result in report.RESULTS}
    assert [i for i in page.ids if i in names] == ["fig1a", "fig2a", "table6", "training"]
    numbers = [re.match(r"(fig|table)s?(\d+)", result.name) for result in report.RESULTS]
    keys = [(m[1], int(m[2])) for m in numbers if m]  # the paper's; ours come after
    assert all(numbers[: len(keys)])
    assert keys == sorted(keys) and report.RESULTS[-1].name == "training"
    assert len({result.name for result in report.RESULTS}) == len(report.RESULTS)
    assert len(keys) == 24 + 2  # every figure and table of the paper; two beside theirs
    assert all(
        (result.kind == "table") == result.name.startswith("table")
        for result in report.RESULTS[: len(keys)]
    )


def test_links_to_notebooks_that_exist(page):
    notebooks = [link.removeprefix("../../") for link in page.links if "notebooks" in link]
    assert notebooks == [
        f"notebooks/{n}.ipynb" for n in ("06_plot", "06_plot", "06_plot", "04_finetune")
    ]
    assert all(
        (report.ROOT / "notebooks" / f"{result.notebook}.py").exists() for result in report.RESULTS
    )


def test_claims_are_those_of_the_csv(page):
    cells = page.row_cells("claims")
    summary, cells = cells[:6], cells[6:]  # a row a verdict that some claim has
    assert [text.split()[-1] for text in summary[::2]] == ["1", "1", "2"]
    assert "SFT moves few features" in summary[1] and "a | b" in summary[3]
    assert "wider SAEs" in summary[5] and "STS correlates" in summary[5]
    rows = [cells[i : i + 6] for i in range(6, len(cells), 6)]
    expected = sorted(CLAIMS, key=lambda c: ["fig1a", "fig2a", "fig4a", "table6"].index(c[0]))
    for row, (_, claim, statistic, value, low, high, paper, judged) in zip(
        rows, expected, strict=True
    ):
        assert row[1:3] == [claim, statistic] and row[4:] == [paper, judged]
        shown = [float(x) if x != "–" else math.nan for x in re.findall(r"[-\d.e]+|–", row[3])]
        assert shown == pytest.approx([value, low, high], rel=5e-3, nan_ok=True)
    assert [(c, w) for c, w in page.badges[:3]] == [
        (f"badge {v.replace(' ', '-')}", v) for v in results.VERDICTS[:3]
    ]
    assert all(c == f"badge {w.replace(' ', '-')}" for c, w in page.badges)


def test_a_claim_about_something_missing_is_listed_without_a_link(page):
    assert "wider SAEs predict worse" in page.text and "#fig4a" not in page.links


def test_numbers_in_tables(page):
    assert page.row_cells("table6") == [
        "metric",
        "n",
        "r",
        "p",
        "x",
        "sts_act",
        "14",
        "0.442",
        "1235",
        "0.500",
        "<script>x</script>",
        "12345",
        "-0.00123",
        "–",
        "-494",
        "none",
        "0",
        "0",
        "8",
        "23.0",
    ]


def test_what_is_written_is_shown_as_text(profile, folder, page):
    assert "About fig1a <script>alert('fig1a')</script>." in page.text
    text = report.html(profile, folder)
    assert text.count("<script") == 1 and "<b>" not in text and "&lt;b&gt;bold" in text
    wild = profile.model_copy(update={"name": "<img src=x></script>", "about": "<script>"})
    text = report.html(wild, folder)
    assert text.count("<script") == text.count("</script") == 1 and "<img src=x" not in text
    assert "<script" not in report.markdown(wild, folder) and "<img" not in report.markdown(
        wild, folder
    )


def test_the_setting_is_said_once(page, profile, folder):
    assert page.text.count(SETTING) == 1 and "Table 6. As it is." in page.text
    (folder / "table6.txt").write_text("Table 6. As it is.\nAnother setting.\n")
    text = Page(report.html(profile, folder)).text
    assert text.count(SETTING) == 1 and "Table 6. As it is. Another setting." in text


def test_missing_things_are_named(profile, folder):
    (folder / "fig2a.png").unlink()
    (folder / "claims.csv").unlink()
    present = {"Fig 1a", "Table 6", "Training"}
    for text in (Page(report.html(profile, folder)).text, report.markdown(profile, folder)):
        (said,) = re.findall(r"Not in this run: (.*)\.", text)
        assert set(said.split(", ")) == {
            i.title.split(":")[0] for i in report.RESULTS
        } - present | {"claims"}


def test_an_empty_run_has_a_page(profile, tmp_path):
    assert Page(report.html(profile, tmp_path)).images == []
    assert "Not in this run" in report.markdown(profile, tmp_path)


def test_markdown(profile, folder):
    text = report.markdown(profile, folder)
    rows = [
        re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")
    ]
    summary, rows = rows[:5], rows[5:]
    assert [row[0].strip() for row in summary[2:]] == [
        "agrees: 1",
        "does not: 1",
        "inconclusive: 2",
    ]
    assert {len(row) for row in rows} == {6} and len(rows) == 2 + len(CLAIMS)
    assert rows[2][0].strip() == "[Fig 1a](figures/tiny/fig1a.png)"
    assert (
        rows[2][3].strip() == "0.693 [0.678, 0.717]"
        and rows[5][3].strip() == "0.442 [-0.316, 0.545]"
    )
    assert "a \\| b see [x]\\(http" in rows[3][1] and "&lt;b&gt;bold&lt;/b&gt;" in rows[3][1]
    assert [row[5].strip() for row in rows[2:]] == [
        "agrees",
        "does not",
        "inconclusive",
        "inconclusive",
    ]
    assert "Generated by `make reproduce`" in text and results.RULE in text and SETTING in text
    targets = re.findall(r"\]\(([^)]*)\)", text.replace("]\\(", ""))
    assert all(
        (folder.parents[1] / t).exists()
        for t in targets
        if t.startswith("figures/") and "index.html" not in t
    )
    beside = re.findall(
        r"\]\(([^)]*)\)", report.markdown(profile, folder, beside=True).replace("]\\(", "")
    )
    assert beside == [
        re.sub("^figures/tiny/", "", t).replace("notebooks/", "../../notebooks/") for t in targets
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("fig2a,", "fig99,", "'fig99'"),
        (",agrees", ",maybe", "'maybe'"),
        (",statistic", ",stat", "no column statistic"),
    ],
)
def test_wrong_claims_are_refused(profile, folder, old, new, said):
    path = folder / "claims.csv"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=said):
        report.html(profile, folder)


def test_write(profile, folder, monkeypatch):
    root = folder.parents[1]
    monkeypatch.setattr(report, "FIGURES", folder.parent)
    assert report.write(profile) == [folder / "index.html", folder / "REPRODUCTION.md"]
    first = [p.read_bytes() for p in report.write(profile)]
    assert first == [p.read_bytes() for p in report.write(profile)]
    assert all(str(root).encode() not in text for text in first)
    monkeypatch.setattr(report, "ROOT", root)
    assert report.write(profile)[1] == folder / "REPRODUCTION.md"
    smol = profile.model_copy(update={"name": "smol"})
    assert report.write(smol) == [folder.parent / "smol" / "index.html", root / "REPRODUCTION.md"]
    assert "](figures/smol/index.html)" in (root / "REPRODUCTION.md").read_text()
    assert "](index.html)" in (folder / "REPRODUCTION.md").read_text()
    monkeypatch.setattr(report, "ROOT", root / "elsewhere")
    assert report.write(smol)[1] == folder.parent / "smol" / "REPRODUCTION.md"


def test_the_readme_counts_the_claims_as_they_are():
    claims = pd.read_csv(report.ROOT / "figures/smol/claims.csv")
    counts = results.by_claim(claims).verdict.value_counts()
    text = (report.ROOT / "README.md").read_text(encoding="utf-8")
    assert f"of the {counts.sum()} claims" in text
    words = {"hold": "agrees", "do not": "does not", "can't be told": "inconclusive"}
    for word, verdict in (words | {"not testable": "not testable"}).items():
        stated = f"| **{word}** ({counts.get(verdict, 0)}) |" in text
        assert stated == (verdict in counts)
    for row in claims[claims.figure == "fig3"].itertuples():
        if row.claim.endswith("absolute change"):
            assert f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]".replace("-", "−") in text
