"""Skills × surfaces: right answers, and two halves that share nothing."""

import contextlib
import io

import pytest

from sts_utils import corpora
from sts_utils.corpora import skills
from sts_utils.examples import by_domain

HALVES = ("design", "judgement")


@pytest.mark.parametrize("half", HALVES)
def test_every_skill_is_asked_on_every_surface(half):
    cells, words = by_domain(corpora.load(f"skills-{half}")), skills.table()[half]
    asked = [list(surface["ask"]) for surface in words["surfaces"].values()]
    assert len(asked) == 4 and all(names == asked[0] for names in asked)
    assert set(cells) == {f"{s}, {w}" for w in words["surfaces"] for s in asked[0]}
    shown = by_domain(corpora.load(f"skills-{half}-shown"))
    assert {len(cell) for cell in cells.values()} == {skills.ASKED} and set(shown) == set(cells)
    assert not {e.question for d in cells for e in cells[d]} & {
        e.question for d in shown for e in shown[d]
    }
    assert set(words["trained"]) < set(words["surfaces"]) and len(words["trained"]) == 2
    for cell in cells.values():
        assert len({e.question for e in cell}) == len(cell)
        for e in cell:
            assert e.answer == e.solution and e.options.count(e.answer) == 1
            assert len(set(e.options)) == len(e.options) in (2, 4)


def test_the_halves_share_no_skill_no_surface_and_no_name():
    design, judgement = (skills.table()[half] for half in HALVES)
    assert not design["surfaces"].keys() & judgement["surfaces"].keys()
    asked = [{s for x in of["surfaces"].values() for s in x["ask"]} for of in (design, judgement)]
    assert not asked[0] & asked[1] and asked[0] | asked[1] == skills.SKILLS.keys()
    names = [{n for x in of["surfaces"].values() for n in x["names"]} for of in (design, judgement)]
    assert not names[0] & names[1]
    assert {skills.SKILLS[s][0] for s in asked[1]} == {"number", "name", "truth"}


@pytest.mark.parametrize(("half", "surface"), [("design", "python"), ("judgement", "sizes")])
def test_answers_are_what_python_prints(half, surface):
    chosen = [e for e in corpora.load(f"skills-{half}") if e.domain.endswith(f", {surface}")]
    assert len(chosen) >= 6 * skills.ASKED
    for e in chosen:
        written = io.StringIO()
        with contextlib.redirect_stdout(written):
            exec(e.question.removesuffix(" writes"), {})
        assert written.getvalue().strip() == e.answer, e.question


def test_no_answer_is_told_by_the_options_alone():
    """The gold option stands in each place alike, and is no favourite of its cell."""
    for half in HALVES:
        for domain, cell in by_domain(corpora.load(f"skills-{half}")).items():
            first = sum(e.options[0] == e.answer for e in cell) / len(cell)
            assert abs(first - 1 / len(cell[0].options)) < 0.12, domain
