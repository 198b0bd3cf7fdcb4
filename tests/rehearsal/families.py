"""The paper's three model families: public sizes, chat templates, tokenizers of their kind."""

from pathlib import Path

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import Gemma2Config, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from sts_utils import corpora

#: The public config.json of each paper profile's model: profile -> (class, dims).
PUBLIC = {
    "llama3-8b": (
        LlamaConfig,
        dict(
            vocab_size=128_256,
            hidden_size=4096,
            intermediate_size=14_336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=8192,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
            tie_word_embeddings=False,
        ),
    ),
    "qwen2.5-7b": (
        Qwen2Config,
        dict(
            vocab_size=152_064,
            hidden_size=3584,
            intermediate_size=18_944,
            num_hidden_layers=28,
            num_attention_heads=28,
            num_key_value_heads=4,
            max_position_embeddings=32_768,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
            tie_word_embeddings=False,
        ),
    ),
    "gemma2-9b": (
        Gemma2Config,
        dict(
            vocab_size=256_000,
            hidden_size=3584,
            intermediate_size=14_336,
            num_hidden_layers=42,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=256,
            max_position_embeddings=8192,
            query_pre_attn_scalar=256,
            sliding_window=4096,
            attn_logit_softcapping=50.0,
            final_logit_softcapping=30.0,
        ),
    ),
}
NAMES = tuple(PUBLIC)
#: The chat templates that these models' tokenizers carry (Qwen's without its tools).
FOLDER = Path(__file__).parent.parent / "chats"
LLAMA3, QWEN, GEMMA2 = (
    (FOLDER / f"{name}.jinja").read_text(encoding="utf-8") for name in ("llama3", "qwen", "gemma2")
)
#: profile -> (template, marks, what stands just before the query, what follows it)
CHATS = {
    "llama3-8b": (
        LLAMA3,
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "qwen2.5-7b": (
        QWEN,
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        "<|im_start|>user\n",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "gemma2-9b": (
        GEMMA2,
        ("<bos>", "<pad>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
        "<start_of_turn>user\n",
        "<end_of_turn>\n<start_of_turn>model\n",
    ),
}
#: The tokens that each tokenizer_config.json names, and those that end an answer.
SPECIAL = {
    "llama3-8b": dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"),
    "qwen2.5-7b": dict(eos_token="<|im_end|>", pad_token="<|endoftext|>"),
    "gemma2-9b": dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>"),
}
ENDS = {
    "llama3-8b": ["<|eot_id|>"],
    "qwen2.5-7b": ["<|im_end|>", "<|endoftext|>"],
    "gemma2-9b": ["<eos>", "<end_of_turn>"],
}


def tokenizer(name: str, words: int = 800) -> PreTrainedTokenizerFast:
    """A BPE tokenizer of the family's kind (byte-level, or with ▁ for spaces) of `words` tokens,
    which puts a BOS where the real one does."""
    template, marks, *_ = CHATS[name]
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
    told = {"vocab_size": words, "initial_alphabet": alphabet, "special_tokens": list(marks)}
    inner.train_from_iterator(texts, trainers.BpeTrainer(**told))
    if bos := SPECIAL[name].get("bos_token"):
        pair = bos, inner.token_to_id(bos)
        inner.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[pair])
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template, **SPECIAL[name])
