"""Which questions a run uses, and the prompts made of them: by the profile and the seed alone."""

import logging
import math
import random
from collections.abc import Sequence
from functools import cache

from sts_utils import corpora, models, prompts
from sts_utils.config import Profile, SweepSettings, TrainingSet
from sts_utils.corpora import packaged
from sts_utils.features import ROWS
from sts_utils.prompts import Example, Pairs, by_domain, split, with_answer

log = logging.getLogger(__name__)
_tokenizer = cache(models.load_tokenizer)


def tokenizer(p: Profile):
    """The tokenizer of the profile's model, loaded once a process."""
    return _tokenizer(p.model, p.revision)


def trained_on(p: Profile, other: TrainingSet) -> Profile:
    """The run with another training set, its dose and its seeds."""
    dose = {"examples": other.examples, "batch": other.batch, "lr": other.lr or p.sft.lr}
    dose |= {"micro_batch": math.gcd(other.batch, p.sft.micro_batch)}
    asked = p.evaluation.model_copy(update={"asked": p.others_questions})
    own = {"sft": p.sft.model_copy(update=dose), "evaluation": asked}
    own |= {"domains": other.domains or p.domains, "seeds": p.seeds[: other.seeds]}
    own |= {"demonstrations": other.demonstrations or p.demonstrations, "train": other.train}
    return p.model_copy(update=own)


def sets(p: Profile, elsewhere: bool = False) -> list[Profile]:
    """The run with each further training set that is asked its domains, or others (`elsewhere`)."""
    chosen = [other for other in p.others if bool(other.domains) == elsewhere]
    each = [(other, name) for other in chosen for name in corpora.members(other.train)]
    return [trained_on(p, one.model_copy(update={"train": name})) for one, name in each]


def as_asked(p: Profile) -> Profile:
    """The run whose scores read questions as the outcome asks them, options unlisted; one seed."""
    sts = p.sts.model_copy(update={"options": False})
    return p.model_copy(update={"sts": sts, "sweep": SweepSettings(), "seeds": p.seeds[:1]})


def training_examples(p: Profile, seed: int, listed=False) -> tuple[list[Example], list[Example]]:
    """(SFT pool, held out) of the training corpus: the same split for every seed, other orders.
    Multiple choice is learnt as it is measured, an option's text for an answer, unless `listed`."""
    examples = corpora.load(p.train)
    if p.evaluation.mode == "options" and not listed:
        examples = [with_answer(e) if e.options else e for e in examples]
    train, held_out = split(examples, p.shift.held_out, seed=0)
    for part in (train, held_out):
        random.Random(seed).shuffle(part)
    return train, held_out


def templates(p: Profile) -> dict[str, str]:
    """Id of a training question -> its template, where several are variants of one. Empty where
    more questions are read than there are rows of sums, which then mix templates."""
    few = p.shift.queries <= ROWS
    return {e.id: e.group for e in corpora.load(p.train) if few and e.group}


def mathematics(p: Profile, most: int) -> list[Example]:
    """Mathematics questions that are never trained on: the profile's corpus, or held-out ones."""
    corpus = p.evaluation.mathematics
    return corpora.load(corpus, 0, most) if corpus else training_examples(p, 0)[1][:most]


def domain_questions(p: Profile) -> dict[str, list[Example]]:
    """Every question of each domain that is not among the demonstrations, compared by its text."""
    shown = {e.question for e in corpora.load(p.demonstrations)}
    return by_domain(e for e in corpora.load(p.domains) if e.question not in shown)


def evaluation_questions(p: Profile) -> dict[str, list[Example]]:
    """The questions of each domain on which performance is measured; the same for all seeds."""
    return {d: group[: p.evaluation.questions] for d, group in domain_questions(p).items()}


def domain_queries(p: Profile, domain: str, seed: int) -> list[Example]:
    """The questions on which a domain is scored: for each seed others of those it is asked."""
    asked = evaluation_questions(p)[domain]
    return asked if len(asked) < p.sts.queries else random.Random(seed).sample(asked, p.sts.queries)


def halves(p: Profile, domain: str) -> tuple[list[Example], list[Example]]:
    """(for training, for testing): a domain's questions split 1:1, as the paper's mixtures do."""
    asked = domain_questions(p)[domain]
    return asked[: len(asked) // 2], asked[len(asked) // 2 :]


def training_pairs(p: Profile, seed: int, prose: bool = False) -> Pairs:
    """(plain, icl) prompts of the training set: held-out queries, demonstrations from the SFT pool
    of those short enough that they and a query as long fit the context: of LIMO's chains of thought
    an 8,192-token context does not take two. With `prose` passages as long stand for the
    demonstrations, so that what moves is what any context moves."""
    (train, held_out), settings = training_examples(p, seed), p.shift
    if (n := len(held_out)) < 2:
        raise ValueError(f"corpus {p.train!r} has {n} held-out questions: raise shift.held_out")
    if n < settings.queries:
        log.warning("%r: all %d held-out questions are read, not shift.queries", p.train, n)
    limit = models.config_of(p.model, p.revision).max_position_embeddings
    limit //= settings.demonstrations + 1
    fitting = within(tokenizer(p), train, limit - 1)
    if len(fitting) < len(train):
        log.warning("%r: %d of %d examples can be shown", p.train, len(fitting), len(train))
    sets = prompts.choose_demonstrations(fitting, settings.demonstrations, settings.sets, seed)
    if prose:
        rng = random.Random(f"prose {seed}")
        sets = [[packaged.prose(tokenizer(p), rng, e) for e in group] for group in sets]
    return pairs(p, held_out[: settings.queries], sets)


def domain_pairs(p: Profile, domain: str, seed: int) -> Pairs:
    """(plain, icl) prompts of a downstream domain, with its own chain-of-thought demonstrations."""
    shown = by_domain(corpora.load(p.demonstrations))[domain]
    asked = domain_queries(p, domain, seed)
    if not p.sts.options:
        shown, asked = ([prompts.unlisted(e) for e in examples] for examples in (shown, asked))
    return pairs(p, asked, prompts.choose_demonstrations(shown, p.sts.demonstrations, 1, seed))


def pairs(p: Profile, queries: Sequence[Example], sets: Sequence[Sequence[Example]]) -> Pairs:
    """(plain, icl) prompts of `queries`, which take the `sets` of demonstrations in turn."""
    longest = models.config_of(p.model, p.revision).max_position_embeddings
    made = prompts.prompt_pairs(tokenizer(p), queries, sets, longest)
    if p.place == "query":
        return made
    return [(prompts.behind(plain), prompts.behind(icl)) for plain, icl in made]


def answer_pairs(p: Profile, queries: Sequence, sets: Sequence, rng: random.Random) -> Pairs:
    """(wrong, right) prompts of `queries`: behind demonstrations with wrong or right answers."""
    queries = [with_answer(e) for e in queries]
    wrong = [[prompts.with_wrong_answer(rng, e) for e in group] for group in sets]
    right = [[with_answer(e) for e in group] for group in sets]
    both = [pairs(p, queries, shown) for shown in (wrong, right)]
    return [(a, b) for (_, a), (_, b) in zip(*both, strict=True)]


def within(tokenizer, examples: Sequence[Example], limit: int) -> list[Example]:
    """The examples of at most `limit` tokens, question and solution."""
    texts = [f"{e.query}\n{e.solution}" for e in examples]
    read = tokenizer(texts, add_special_tokens=False).input_ids if texts else []
    return [e for e, ids in zip(examples, read, strict=True) if len(ids) <= limit]
