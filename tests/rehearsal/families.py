"""The paper's three model families: public sizes, chat templates, tokenizers of their kind."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import Gemma2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from sts_utils import corpora

#: The public config.json of each paper profile's model: profile -> (class, dims).
LLAMA = dict(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32)
LLAMA |= dict(num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192)
LLAMA |= dict(rms_norm_eps=1e-5, rope_parameters=dict(rope_type="default", rope_theta=500_000.0))
LLAMA |= dict(tie_word_embeddings=False)
QWEN2 = dict(vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28)
QWEN2 |= dict(num_attention_heads=28, num_key_value_heads=4, max_position_embeddings=32_768)
QWEN2 |= dict(rms_norm_eps=1e-6, rope_parameters=dict(rope_type="default", rope_theta=1_000_000.0))
QWEN2 |= dict(tie_word_embeddings=False)
GEMMA = dict(vocab_size=256_000, hidden_size=3584, intermediate_size=14_336, num_hidden_layers=42)
GEMMA |= dict(num_attention_heads=16, num_key_value_heads=8, max_position_embeddings=8192)
GEMMA |= dict(head_dim=256, query_pre_attn_scalar=256, sliding_window=4096)
GEMMA |= dict(attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
PUBLIC = {"llama3-8b": (LlamaConfig, LLAMA), "qwen2.5-7b": (Qwen2Config, QWEN2)}
PUBLIC |= {"gemma2-9b": (Gemma2Config, GEMMA)}
NAMES = tuple(PUBLIC)
#: The special tokens of each tokenizer; which tokenizer_config.json names; which end an answer.
MARKS = {"llama3-8b": "<|begin_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"}
MARKS |= {"qwen2.5-7b": "<|endoftext|> <|im_start|> <|im_end|>"}
MARKS |= {"gemma2-9b": "<bos> <pad> <eos> <start_of_turn> <end_of_turn>"}
SPECIAL = {"llama3-8b": dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")}
SPECIAL |= {"qwen2.5-7b": dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")}
SPECIAL |= {"gemma2-9b": dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")}
ENDS = {"llama3-8b": ["<|eot_id|>"], "qwen2.5-7b": ["<|im_end|>", "<|endoftext|>"]}
ENDS |= {"gemma2-9b": ["<eos>", "<end_of_turn>"]}
#: The chat templates that these tokenizers carry (Qwen's without its tools).
FOLDER = Path(__file__).parent.parent / "chats"
FILES = {"llama3-8b": "llama3.jinja", "qwen2.5-7b": "qwen.jinja", "gemma2-9b": "gemma2.jinja"}
#: What they put just before a query, and what follows it.
HEAD = "<|start_header_id|>{}<|end_header_id|>\n\n"
AROUND = {"llama3-8b": (HEAD.format("user"), "<|eot_id|>" + HEAD.format("assistant"))}
AROUND |= {"qwen2.5-7b": ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n")}
AROUND |= {"gemma2-9b": ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n")}


def tokenizer(name: str, words: int = 800) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of the family's kind (byte-level, or with ▁ for spaces) of `words` tokens,
    which puts a BOS where the real one does."""
    template = (FOLDER / FILES[name]).read_text(encoding="utf-8")
    inner = Tokenizer(BPE(unk_token=None, byte_fallback=name == "gemma2-9b"))
    if name == "gemma2-9b":
        inner.normalizer = normalizers.Replace(" ", "▁")
        inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        alphabet = [chr(i) for i in range(10, 127)]
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [e.query for e in corpora.load("gsm-symbolic", 5, 60)]
    if words > 1000:
        texts += [e.query for e in corpora.load("mmlu-test", 5, 1000)]
    told = {"vocab_size": words, "initial_alphabet": alphabet}
    told["special_tokens"] = MARKS[name].split()
    inner.train_from_iterator(texts, trainers.BpeTrainer(**told))
    if bos := SPECIAL[name].get("bos_token"):
        pair = bos, inner.token_to_id(bos)
        inner.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[pair])
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template, **SPECIAL[name])
