"""Skills × surfaces: right answers, and two halves that share nothing."""

import contextlib
import io

import pytest

from sts_utils import corpora
from sts_utils.corpora import skills
from sts_utils.examples import by_domain


@pytest.mark.parametrize("half", ["design", "judgement"])
def test_every_skill_is_asked_on_every_surface(half):
    cells, words = by_domain(corpora.load(f"skills-{half}")), skills.table()[half]
    first, *others = [list(surface["ask"]) for surface in words["surfaces"].values()]
    assert others == 3 * [first] and len(words["trained"]) == 2
    assert set(cells) == {f"{s}, {w}" for w in words["surfaces"] for s in first}
    shown = by_domain(corpora.load(f"skills-{half}-shown"))
    asked, worked = ({e.question for d in of.values() for e in d} for of in (cells, shown))
    assert (
        not asked & worked
        and set(shown) == set(cells)
        and set(words["trained"]) < {*words["surfaces"]}
    )
    for domain, cell in cells.items():
        assert len({e.question for e in cell}) == len(cell) == skills.ASKED
        for e in cell:
            assert e.answer == e.solution and e.options.count(e.answer) == 1
            assert len(set(e.options)) == len(e.options) in (2, 4)
        # no answer is told by its place, and none is the favourite of its cell
        gold = sum(e.options[0] == e.answer for e in cell) / len(cell)
        assert abs(gold - 1 / len(cell[0].options)) < 0.12, domain
        if domain.endswith((", python", ", sizes")):
            for e in cell:
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(e.question.removesuffix(" writes"), {})
                assert printed.getvalue().strip() == e.answer, e.question


def test_the_halves_share_no_skill_no_surface_and_no_name():
    halves = [skills.table()[half]["surfaces"] for half in ("design", "judgement")]
    asked = [{skill for surface in half.values() for skill in surface["ask"]} for half in halves]
    names = [{name for surface in half.values() for name in surface["names"]} for half in halves]
    for one, other in (halves, asked, names):
        assert not set(one) & set(other)
    assert asked[0] | asked[1] == skills.SKILLS.keys()
    assert {skills.SKILLS[s][0] for s in asked[1]} == {"number", "name", "truth"}
