"""Which questions a run uses: the same for whoever asks, by the profile and the seed alone."""

import logging
import random
from collections.abc import Sequence
from functools import cache

from sts_utils import corpora, models, prompts
from sts_utils.config import Profile
from sts_utils.examples import Example, by_domain, split, with_answer, with_wrong_answer
from sts_utils.features import ROWS
from sts_utils.prompts import Prompt
from sts_utils.runs import recipes

log = logging.getLogger(__name__)


def tokenizer(name: str, revision: str | None = None):
    """The tokenizer of a model name, loaded once a process."""
    return _tokenizer(name, revision, recipes.model_content(name, revision))


@cache
def _tokenizer(name: str, revision: str | None, _content: str | None):
    return models.load_tokenizer(name, revision)


def corpora_of(profile: Profile) -> list[str]:
    """The names of the corpora that a run reads, each once."""
    p, names = profile, []
    if p.runs_paper:
        names += [p.train, p.domains, p.demonstrations, *p.others, p.grpo.train]
        names += [p.labels.code, p.labels.dialogue, p.evaluation.mathematics]
    sets = [p.also] if p.also and p.runs_paper else []
    for of in (*sets, *(p.control.parts if p.runs_control else ())):
        names += [of.domains, of.demonstrations]
    return list(dict.fromkeys(filter(None, names)))


# --- questions ---------------------------------------------------------------------------------


def training_examples(profile: Profile, seed: int) -> tuple[list[Example], list[Example]]:
    """(SFT pool, held out) of the training corpus: the same split for every seed, other orders."""
    train, held_out = split(corpora.load(profile.train), profile.shift.held_out, seed=0)
    for part in (train, held_out):
        random.Random(seed).shuffle(part)
    return train, held_out


def templates(profile: Profile) -> dict[str, str]:
    """Id of a training question -> its template, where several are variants of one. Empty where
    more questions are read than there are rows of sums, which then mix templates."""
    if profile.shift.queries > ROWS:
        return {}
    return {e.id: e.group for e in corpora.load(profile.train) if e.group}


def mathematics(profile: Profile, most: int) -> list[Example]:
    """Mathematics questions that are never trained on: the profile's corpus, or held-out ones."""
    if corpus := profile.evaluation.mathematics:
        return corpora.load(corpus, 0, most)
    return training_examples(profile, 0)[1][:most]


def domain_questions(profile: Profile) -> dict[str, list[Example]]:
    """Every question of each domain that is not among the demonstrations, compared by its text."""
    shown = {e.question for e in corpora.load(profile.demonstrations)}
    return by_domain(e for e in corpora.load(profile.domains) if e.question not in shown)


def evaluation_questions(profile: Profile) -> dict[str, list[Example]]:
    """The questions of each domain on which performance is measured; the same for all seeds."""
    most = profile.evaluation.questions
    return {domain: group[:most] for domain, group in domain_questions(profile).items()}


def domain_queries(profile: Profile, domain: str, seed: int) -> list[Example]:
    """The questions on which a domain is scored: drawn for each seed from those it is evaluated
    on."""
    questions = evaluation_questions(profile)[domain]
    if len(questions) < profile.sts.queries:
        return questions
    return random.Random(seed).sample(questions, profile.sts.queries)


def halves(profile: Profile, domain: str) -> tuple[list[Example], list[Example]]:
    """(for training, for testing): a domain's questions split 1:1, as the paper's mixtures do."""
    questions = domain_questions(profile)[domain]
    middle = len(questions) // 2
    return questions[:middle], questions[middle:]


def second_domains(profile: Profile) -> Profile | None:
    """The run on its second set of domains, with the same models; None where it has none."""
    return profile.model_copy(update=dict(profile.also)) if profile.also else None


def trained_on(profile: Profile, corpus: str) -> Profile:
    """The run with another training set, its first seed alone."""
    sft = profile.sft.model_copy(update={"examples": profile.others_examples})
    asked = profile.evaluation.model_copy(update={"asked": profile.others_questions})
    changed = {"seeds": profile.seeds[:1], "train": corpus, "sft": sft, "evaluation": asked}
    return profile.model_copy(update=changed)


# --- pairs of prompts --------------------------------------------------------------------------


def training_pairs(
    profile: Profile, seed: int, shown: Sequence[Example] | None = None
) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts of the training set: held-out queries, demonstrations from the SFT pool
    (or `shown`)."""
    train, held_out = training_examples(profile, seed)
    settings, name, n = profile.shift, profile.train, len(held_out)
    if n < 2:
        raise ValueError(f"corpus {name!r} has {n} held-out questions: raise shift.held_out")
    if n < settings.queries:
        said = "corpus %r has %d held-out questions, all are read: shift.queries asks for %d"
        log.warning(said, name, n, settings.queries)
    pool = fitting(profile, train if shown is None else list(shown), settings.demonstrations)
    sets = prompts.choose_demonstrations(pool, settings.demonstrations, settings.sets, seed)
    return pairs(profile, held_out[: settings.queries], sets)


def domain_pairs(profile: Profile, domain: str, seed: int) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts of a downstream domain, with its own chain-of-thought demonstrations."""
    shown = by_domain(corpora.load(profile.demonstrations))[domain]
    sets = prompts.choose_demonstrations(shown, profile.sts.demonstrations, 1, seed)
    return pairs(profile, domain_queries(profile, domain, seed), sets)


def pairs(
    profile: Profile, queries: Sequence[Example], sets: Sequence[Sequence[Example]]
) -> list[tuple[Prompt, Prompt]]:
    """(plain, icl) prompts of `queries`, which take the `sets` of demonstrations in turn."""
    longest = models.context_length(profile.model, profile.revision)
    read = tokenizer(profile.model, profile.revision)
    made = prompts.prompt_pairs(read, queries, sets, longest)
    if profile.place == "query":
        return made
    return [(prompts.behind(plain), prompts.behind(icl)) for plain, icl in made]


def answer_pairs(
    profile: Profile,
    queries: Sequence[Example],
    sets: Sequence[Sequence[Example]],
    rng: random.Random,
) -> list[tuple[Prompt, Prompt]]:
    """(wrong, right) prompts of `queries`: behind demonstrations with a wrong option for an answer,
    and behind the same with the right one (ours). Raises ValueError for one without options."""
    queries = [with_answer(e) for e in queries]
    wrong = [[with_wrong_answer(rng, e) for e in group] for group in sets]
    right = [[with_answer(e) for e in group] for group in sets]
    both = [pairs(profile, queries, shown) for shown in (wrong, right)]
    return [(a, b) for (_, a), (_, b) in zip(*both, strict=True)]


def fitting(profile: Profile, examples: list[Example], demonstrations: int) -> list[Example]:
    """The examples short enough that `demonstrations` of them and a query as long fit the context.

    LIMO's chains of thought are longer than an 8,192-token context takes two of. Raises ValueError
    where none is left.
    """
    limit = models.context_length(profile.model, profile.revision) // (demonstrations + 1)
    kept = within(tokenizer(profile.model, profile.revision), examples, limit - 1)
    if len(kept) < demonstrations:
        has = f"corpus {profile.train!r} has {len(kept)} examples under {limit} tokens"
        raise ValueError(f"{has}: lower shift.demonstrations")
    if len(kept) < len(examples):
        said = "corpus %r: %d of %d examples are short enough to be demonstrations"
        log.warning(said, profile.train, len(kept), len(examples))
    return kept


def within(tokenizer, examples: Sequence[Example], limit: int) -> list[Example]:
    """The examples of at most `limit` tokens, question and solution."""
    texts = [f"{e.query}\n{e.solution}" for e in examples]
    read = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    return [e for e, ids in zip(examples, read, strict=True) if len(ids) <= limit]
