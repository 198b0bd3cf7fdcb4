"""Mathematics as figures show it: verified answers where a corpus is named, else likelihood."""

from sts_utils import corpora, grpo
from sts_utils.runs import performance, samples


def with_answers(profile, corpus):
    more = {"mathematics": corpus, "max_new_tokens": 4}
    return profile.model_copy(update={"evaluation": profile.evaluation.model_copy(update=more)})


def test_without_a_corpus_it_is_the_likelihood_of_held_out_solutions(profile, whole):
    held_out = samples.training_examples(profile, 0)[1][:3]
    assert samples.mathematics(profile, 3) == held_out
    table = performance.solve(profile, held_out, whole=whole)
    how = performance.mathematics(profile)
    assert list(table) == ["id", how.column] == ["id", "solution_loglik"] and not how.recipe


def test_answers_to_a_corpus_are_written_and_verified(profile, whole, monkeypatch):
    asked = with_answers(profile, "chain-sum")
    examples, how = samples.mathematics(asked, 4), performance.mathematics(asked)
    assert examples == corpora.load("chain-sum", 0, 4)
    tokens = []

    def written(model, tokenizer, questions, new_tokens, **_):
        tokens.append(new_tokens)
        right = {e.query: f"so \\boxed{{{e.answer}}}" for e in examples}
        return [right[q] if i else "no idea" for i, q in enumerate(questions)]

    monkeypatch.setattr(grpo.generate, "completions", written)
    table = performance.solve(asked, examples, whole=whole).set_index("id")
    assert list(table[how.column][[e.id for e in examples]]) == [0, 1, 1, 1] and tokens == [4]
    assert table.solution_loglik.notna().all()
    assert "chain-sum" in how.of and how.recipe != performance.mathematics(profile).recipe


def test_what_is_stored_is_not_mistaken_for_the_likelihood(profile):
    asked = with_answers(profile, "chain-sum")
    verified = performance.measure_mathematics(asked)
    assert "accuracy" in verified and len(verified) == profile.evaluation.held_out
    assert "accuracy" not in performance.measure_mathematics(profile)
