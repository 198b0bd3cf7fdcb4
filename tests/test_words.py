"""Sentences that can be read at once: at most 22 words on average and none over 35."""

import re

import pytest

from sts_utils.store import ROOT

TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data/saes/README.md"]
TEXTS += sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("notebooks/*.py")])


def sentences(text: str) -> list[str]:
    """The prose of Markdown: no code, table, formula, heading, picture or link's target."""
    text = re.sub(r"^ *(```|~~~).*?^ *\1|<!--.*?-->|\$\$.*?\$\$", "\n\n", text, flags=re.M | re.S)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|^ *(\||#).*$", "\n", text, flags=re.M)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    text = re.sub(r"`[^`]+`|\$[^$]+\$|\[[−\d][^\]]*\]", "code", text)  # an interval is a word too
    parts = re.split(r"\n\s*\n|\n *(?:[-*]|\d+\.) ", "\n" + text)
    ends = r"(?<!e\.g\.)(?<!i\.e\.)(?<=[.!?])[*_)\"”]*\s+"
    return [" ".join(s.split()) for part in parts for s in re.split(ends, part) if words(s)]


def words(sentence: str) -> int:
    return sum(any(map(str.isalnum, word)) for word in sentence.split())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_sentences_are_short(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":  # a notebook's Markdown cells
        cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n?)*)", text, flags=re.M)
        text = "\n\n".join(re.sub(r"^# ?", "", cell, flags=re.M) for cell in cells)
    long = sorted(sentences(text), key=words, reverse=True)
    assert words(long[0]) <= 35, f"{path.name}: {words(long[0])} words in one sentence: {long[0]}"
    assert sum(map(words, long)) / len(long) <= 22, f"{path.name}: long on average: {long[:5]}"


def test_the_counter_counts():
    text = "# Not me\n\nOne two `a b` [three](far/away.md) $x + y$.  Four **five.** Six\nseven:\n\n"
    text += "| a |\n\n- eight 0.1 [0.0, 0.2]\n- nine\n\n```\nten ten\n```\n![no](no.png)\n"
    assert [words(s) for s in sentences(text)] == [5, 2, 2, 3, 1]
    assert max(map(words, sentences("word " * 36 + "end. Short."))) == 37
