"""What a run asks and computes: the same for whoever asks, by the profile and the seed alone."""

from types import SimpleNamespace

import numpy as np
import pytest

from sts_utils import config, corpora, grpo, plan, questions, run
from sts_utils.features import FeatureStats
from sts_utils.measured import Run
from sts_utils.prompts import by_domain


def test_halves_are_disjoint_and_whole(profile):
    shown = {e.question for e in corpora.load(profile.demonstrations)}
    for domain, group in by_domain(corpora.load(profile.domains)).items():
        train, test = questions.halves(profile, domain)
        ids = [e.id for e in (*train, *test)]
        assert sorted(ids) == sorted(e.id for e in group if e.question not in shown)
        assert 0 <= len(test) - len(train) <= 1


def test_what_a_corpus_is_too_small_or_too_long_for_is_said(profile, caplog, monkeypatch):
    """Of LIMO fewer questions are held out than asked for, and not all solutions fit in context."""
    many = {"shift": profile.shift.model_copy(update={"queries": 100_000})}
    short = SimpleNamespace(max_position_embeddings=700)
    monkeypatch.setattr(questions.models, "config_of", lambda *_: short)
    questions.training_pairs(profile.model_copy(update=many), 0)
    assert "held-out questions are read" in caplog.text and "can be shown" in caplog.text


def test_prose_reads_the_same_queries_behind_contexts_as_long(profile):
    both = (questions.training_pairs(profile, 0, prose=p) for p in (True, False))
    for (plain, long), (same, icl) in zip(*both, strict=True):
        assert plain == same and long.query == icl.query
        assert len(long.ids) == pytest.approx(len(icl.ids), rel=0.1)


def test_a_profile_can_select_the_released_code_s_readings(profile):
    released = profile.model_copy(update={"alignment": "stream", "definition": "released_code"})
    read = run.train_features(released, 0, part=profile.sae)
    stats = FeatureStats.from_arrays(read)
    assert stats.n.sum() == profile.shift.stream_rows
    expected = np.argsort(-stats.dh2.sum(0), kind="stable")[: profile.top_n]
    np.testing.assert_array_equal(Run(released).dims[0].ids, expected)
    assert set(Run(released).dims[0].ids) != set(Run(profile).dims[0].ids)


def test_every_sae_is_read_in_one_pass_as_it_would_be_alone(profile):
    name = "random-4x-layer1"
    together = run.train_features(profile, 0, part=name)
    alone = run.with_sae(profile, name).model_copy(update={"sweep": config.SweepSettings()})
    np.testing.assert_allclose(run.train_features(alone, 0, part=name)["dh2"], together["dh2"])


def test_sinks_are_the_same_for_every_training_set(profile):
    """What is stored of a domain serves them all."""
    other = profile.model_copy(update={"train": "code-io"})
    assert run.hook(profile).sink_norm == run.hook(other).sink_norm
    kept, other = run.domain_features.path, questions.trained_on(profile, profile.others[0])
    assert kept(profile, "virology", 0) == kept(other, "virology", 0)


def test_without_a_corpus_mathematics_is_the_likelihood_of_held_out_solutions(profile, whole):
    held_out = questions.training_examples(profile, 0)[1][:3]
    assert questions.mathematics(profile, 3) == held_out
    table = run.solve(profile, held_out, whole)
    assert list(table) == ["id", run.mathematics_measure(profile)[0]] == ["id", "solution_loglik"]


def test_answers_to_a_corpus_are_written_and_verified(profile, whole, monkeypatch):
    more = {"mathematics": "chain-sum", "max_new_tokens": 4}
    more = {"evaluation": profile.evaluation.model_copy(update=more)}
    asked = profile.model_copy(update=more)
    examples = questions.mathematics(asked, 4)
    assert examples == corpora.load("chain-sum", 0, 4)

    def written(model, tokenizer, texts, new_tokens, **_):
        assert new_tokens == 4
        right = {e.query: f"so \\boxed{{{e.answer}}}" for e in examples}
        return [right[q] if i else "no idea" for i, q in enumerate(texts)]

    monkeypatch.setattr(grpo.generate, "completions", written)
    table = run.solve(asked, examples, whole).set_index("id")
    assert list(table.accuracy[[e.id for e in examples]]) == [0, 1, 1, 1]
    assert table.solution_loglik.notna().all()
    assert run.mathematics.path(asked) != run.mathematics.path(profile)


def test_the_plan_names_every_call_once_and_models_before_what_needs_them(profile):
    rounds, seen = plan.rounds(profile), set()
    for calls in rounds:
        kept = [(f, arguments) for f, arguments in calls if hasattr(f, "path")]
        names = [function.path(*arguments).name for function, arguments in kept]
        assert len(set(names)) == len(names)
        for _, (p, *arguments) in kept:
            for model in (a for a in arguments if isinstance(a, tuple) and a and callable(a[0])):
                assert model[0].path(p, *model[1:]).name in seen
        seen |= set(names)


def test_all_that_the_notebooks_computed_was_planned(reproduced, profile):
    """Ray computes it beforehand: what a notebook would compute alone keeps a cluster waiting."""
    runs = reproduced[0] / "runs"
    last_part = [n for n in (runs / "notebooks/tiny").glob("*.ipynb") if n.stem > "06"]
    first = min(path.stat().st_mtime for path in last_part)
    assert not [p.parent for p in runs.glob("*-*/made.json") if p.stat().st_mtime > first]
