"""Chat prompts, and what a model writes behind them."""

from collections.abc import Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from sts_utils.prompts import Example, chat


def chat_text(tokenizer, question: str) -> str:
    """The chat prompt of one user turn, up to where the assistant begins."""
    return tokenizer.apply_chat_template(chat(question), tokenize=False, add_generation_prompt=True)


def tokenize(tokenizer, examples: Sequence[Example], max_length: int) -> list[dict]:
    """Chat prompts with their solutions: lists `input_ids` and `labels`, −100 outside the answer
    (the solution and its end of turn); longer ones lose tokens on the left, as in the paper."""
    rows = []
    for e in examples:
        prompt, turns = chat_text(tokenizer, e.query), chat(e.query, e.solution)
        whole = tokenizer.apply_chat_template(turns, tokenize=False)
        answer = whole.removeprefix(prompt).rstrip("\n")
        # a template may write prompts otherwise than dialogues, or leave thoughts out
        if not whole.startswith(prompt) or e.solution.strip() not in answer:
            raise ValueError(f"the chat template does not extend its own prompt by answer {e.id}")
        head, tail = tokenizer([prompt, answer], add_special_tokens=False).input_ids
        ids, labels = head + tail, [-100] * len(head) + tail
        rows.append({"input_ids": ids[-max_length:], "labels": labels[-max_length:]})
    return rows


def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Rows of `tokenize` as [rows, tokens], padded on the right."""
    ids, labels = ([torch.tensor(row[k]) for row in rows] for k in ("input_ids", "labels"))
    mask = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True)
    labels = pad_sequence(labels, batch_first=True, padding_value=-100)
    ids = pad_sequence(ids, batch_first=True)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def stop_ids(model, tokenizer) -> list[int]:
    """Tokens that end an answer: the model's, the tokenizer's and the chat template's."""
    known = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])}
    text = tokenizer.apply_chat_template(chat("x", "x"), tokenize=False).rstrip()
    last = tokenizer(text, add_special_tokens=False).input_ids[-1]
    return sorted((ids | ({last} & set(tokenizer.added_tokens_decoder))) - {None})


@torch.inference_mode()
def continued(model, tokenizer, prompts: Sequence, batch: int, **settings) -> list[list[int]]:
    """The ids that follow each prompt's ids, padded where others of its batch go on. Prompts go
    `batch` at a time, in their order; `settings` are those of transformers' generate."""
    rows, pad = [], tokenizer.pad_token_id
    for start in tqdm(range(0, len(prompts), batch), desc="generate", unit="batch", leave=False):
        ids = {"input_ids": [list(p) for p in prompts[start : start + batch]]}
        inputs = tokenizer.pad(ids, padding_side="left", return_tensors="pt").to(model.device)
        written = model.generate(**inputs, **settings, tokenizer=tokenizer, pad_token_id=pad)
        rows += written[:, inputs.input_ids.shape[1] :].tolist()
    return rows


def generate(
    model, tokenizer, texts, new_tokens, *, temperature=0, seed=0, batch=32, stop=(), special=False
) -> list[tuple[str, int, bool]]:
    """What `model` writes behind each text: (text, its tokens, whether it ended by itself). Greedy
    at temperature 0, else sampled; texts of like length go together. An answer ends at a text of
    `stop` too, which is kept; its last token is not counted. `special`: with a BOS before it."""
    stops, how = stop_ids(model, tokenizer), {"do_sample": bool(temperature)}
    if temperature:
        torch.manual_seed(seed)
        how |= dict(temperature=temperature, top_k=0, top_p=1.0)
    how |= dict(max_new_tokens=new_tokens, repetition_penalty=1.0, eos_token_id=stops)
    how["stop_strings"] = list(stop) or None
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    prompts = [tokenizer(texts[i], add_special_tokens=special).input_ids for i in order]
    rows = continued(model, tokenizer, prompts, batch, **how)
    ends, answers = {*stops, tokenizer.pad_token_id}, {}
    for i, row in zip(order, rows, strict=True):
        tokens = next((n for n, token in enumerate(row) if token in ends), len(row))
        text = tokenizer.decode(row[:tokens], skip_special_tokens=True)
        answers[i] = text, tokens, tokens < len(row) or any(mark in text for mark in stop)
    return [answers[i] for i in range(len(texts))]


def completions(model, tokenizer, questions: Sequence[str], new_tokens: int, **how) -> list[str]:
    """The model's answer to each question in its chat template; `how` as in `generate`."""
    texts = [chat_text(tokenizer, question) for question in questions]
    return [text.strip() for text, _, _ in generate(model, tokenizer, texts, new_tokens, **how)]
