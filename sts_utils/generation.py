"""What a model writes: batched completions of chat prompts."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from sts_utils import models


def chat_text(tokenizer, question: str) -> str:
    """The chat prompt of one user turn, up to where the assistant begins."""
    turns = [{"role": "user", "content": question}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)


def stop_ids(model, tokenizer) -> list[int]:
    """Ids of the tokens that end a completion: the model's, the tokenizer's, the chat template's."""
    known = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])}
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    text = tokenizer.apply_chat_template(turns, tokenize=False).rstrip()
    last = tokenizer(text, add_special_tokens=False).input_ids[-1]
    return sorted((ids | ({last} & set(tokenizer.added_tokens_decoder))) - {None})


@torch.inference_mode()
def completions(
    model, tokenizer, questions: Sequence[str], new_tokens: int, *, temperature: float = 0.0, seed: int = 0,
    batch: int = 32, desc: str = "generate",
) -> list[str]:  # fmt: skip
    """The model's answer to each question: greedy at temperature 0, sampled otherwise."""
    texts = [chat_text(tokenizer, question) for question in questions]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    torch.manual_seed(seed)
    how = (
        {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        if temperature
        else {"do_sample": False}
    )
    stops, found = stop_ids(model, tokenizer), {}
    with tqdm(total=len(texts), desc=desc, unit="question", leave=False) as bar:
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            inputs = tokenizer(
                [texts[i] for i in chosen], add_special_tokens=False, padding=True, padding_side="left",
                return_tensors="pt",
            ).to(model.device)  # fmt: skip
            with models.quiet():
                ids = model.generate(
                    **inputs, **how, max_new_tokens=new_tokens, repetition_penalty=1.0, eos_token_id=stops,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            written = tokenizer.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
            found.update(zip(chosen, written, strict=True))
            bar.update(len(chosen))
    return [found[i].strip() for i in range(len(texts))]
