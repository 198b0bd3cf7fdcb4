"""Examples, as every corpus gives them; chat prompts with demonstrations, and which of their tokens
are the query."""

import random
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from string import ascii_uppercase

#: The paper's instruction after every training question.
MATH_INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."
_MARK = "\x00QUERY\x00"  # never occurs in text; stands for the query while the template renders


@dataclass(frozen=True)
class Example:
    """One question. `solution` is its chain of thought, `answer` the gold answer alone, one of the
    `options` of a multiple choice. Examples that share a `group` are variants of one template and
    are never split over training and held-out data."""

    question: str
    solution: str
    answer: str
    domain: str
    id: str
    group: str = ""
    options: tuple[str, ...] = ()
    instruction: str = MATH_INSTRUCTION

    @property
    def query(self) -> str:
        """The user's turn: the question, with its options or its instruction."""
        if not self.options:
            return f"{self.question}\n{self.instruction}".rstrip()
        lettered = zip(ascii_uppercase, self.options, strict=False)
        return f"{self.question}\n" + " ".join(f"({c}) {text}" for c, text in lettered)


def with_answer(example: Example) -> Example:
    """The example with the text of its answer for a solution, and its options not shown."""
    return replace(example, options=(), instruction="", solution=example.answer)


def unlisted(example: Example) -> Example:
    """The example without a list of options, and its solution with their texts for letters."""
    texts = dict(zip(ascii_uppercase, example.options, strict=False))
    solution = re.sub(r"\(([A-J])\)( \S.*)?$", lambda m: texts.get(m[1], m[0]), example.solution)
    return replace(example, options=(), instruction="", solution=solution)


def with_wrong_answer(rng: random.Random, example: Example) -> Example:
    """The same with one of its wrong options for an answer."""
    wrong = [option for option in example.options if option != example.answer]
    return with_answer(replace(example, answer=rng.choice(wrong)))


def chat(*texts: str) -> list[dict[str, str]]:
    """The turns of a chat: the user's first, the assistant's next, and so on."""
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(texts)]


def by_domain(examples: Iterable[Example]) -> dict[str, list[Example]]:
    """The examples of each domain, domains in alphabetical order."""
    examples = list(examples)
    names = sorted({e.domain for e in examples})
    return {name: [e for e in examples if e.domain == name] for name in names}


def split(examples: list[Example], held_out: float, seed: int) -> tuple[list, list]:
    """(training, held-out) examples; whole groups go to one side, so no template is on both."""
    groups = sorted({e.group or e.id for e in examples})
    random.Random(seed).shuffle(groups)
    held = set(groups[: round(held_out * len(groups))])
    train = [e for e in examples if (e.group or e.id) not in held]
    return train, [e for e in examples if (e.group or e.id) in held]


@dataclass(frozen=True)
class Prompt:
    """Token ids of one prompt and the half-open span of the query's own tokens in them. Before it
    is the context: the chat header and, in condition "icl", the demonstrations; `shared` tokens of
    it are the same for other queries, where that is not all of it (`behind`). Behind the span is
    the assistant's header, from which a model would go on to generate."""

    ids: tuple[int, ...]
    span: tuple[int, int]
    example_id: str
    condition: str
    shared: int | None = None

    @property
    def query(self) -> tuple[int, ...]:  # ids of the query's tokens
        return self.ids[slice(*self.span)]

    @property
    def context(self) -> tuple[int, ...]:  # before the query, as far as other queries share it
        return self.ids[: self.span[0] if self.shared is None else self.shared]

    @property
    def tail(self) -> tuple[int, ...]:  # behind the context, up to the query's end
        return self.ids[len(self.context) : self.span[1]]


Pairs = Sequence[tuple[Prompt, Prompt]]  # (a, b) of each query: two conditions


def chat_prompt(tokenizer, query: Example, demonstrations: Sequence[Example] = ()) -> Prompt:
    """The chat turns [x_1, y_1, ..., x_t, y_t, x] and the span of x (the paper's step 1), found by
    rendering the template around a mark, and by character offsets: it holds for any template."""
    turns = chat(*(text for e in demonstrations for text in (e.query, e.solution)), _MARK)
    rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    before, mark, after = rendered.partition(_MARK)
    if not mark:
        raise ValueError(f"the chat template of {tokenizer.name_or_path} drops the user's text")
    if lost := [e.id for e in demonstrations if e.solution.strip() not in before]:
        raise ValueError(f"the chat template drops the worked example {lost[0]}")
    text, how = query.query.strip(), {"add_special_tokens": False, "return_offsets_mapping": True}
    encoded = tokenizer(before + text + after, **how)
    starts, ends = zip(*encoded["offset_mapping"], strict=True)
    span = bisect_left(starts, len(before)), bisect_right(ends, len(before) + len(text))
    return Prompt(tuple(encoded["input_ids"]), span, query.id, "icl" if demonstrations else "plain")


def behind(prompt: Prompt) -> Prompt:
    """The same prompt read where its answer is about to be written: the tokens after the query."""
    return replace(prompt, span=(prompt.span[1], len(prompt.ids)), shared=prompt.span[0])


def prompt_pairs(tokenizer, queries: Sequence, sets: Sequence, context_length: int) -> Pairs:
    """(plain, icl) prompts of each query; query i gets the demonstrations sets[i mod len(sets)].
    Raises ValueError where a query's tokens differ between them, or the context is too short."""
    pairs = []
    for i, query in enumerate(queries):
        plain = chat_prompt(tokenizer, query)
        icl = chat_prompt(tokenizer, query, sets[i % len(sets)])
        if plain.query != icl.query:
            raise ValueError(f"question {query.id} is tokenized differently after demonstrations")
        if len(icl.ids) > context_length:
            long = f"question {query.id} with its demonstrations is {len(icl.ids)} tokens"
            raise ValueError(f"{long}, more than the model's {context_length}: use fewer of them")
        pairs.append((plain, icl))
    return pairs


def choose_demonstrations(examples, per_set: int, n_sets: int, seed: int) -> list[list[Example]]:
    """`n_sets` sets of `per_set` demonstrations, no two of one set from the same group."""
    rng = random.Random(seed)
    sets = []
    for _ in range(n_sets):
        shuffled = rng.sample(list(examples), len(examples))
        chosen = list({e.group or e.id: e for e in reversed(shuffled)}.values())[:per_set]
        if len(chosen) < per_set:
            where = examples[0].domain if examples else "an empty corpus"
            few = f"{per_set} demonstrations asked for, {len(chosen)} at hand"
            raise ValueError(f"{few} in {where!r}")
        sets.append(chosen)
    return sets


def decoded(tokenizer, prompt: Prompt) -> str:
    """The prompt as text with the query span between ⟦ and ⟧, to look at."""
    start, stop = prompt.span
    parts = prompt.ids[:start], prompt.ids[start:stop], prompt.ids[stop:]
    return "{}⟦{}⟧{}".format(*(tokenizer.decode(part) for part in parts))
