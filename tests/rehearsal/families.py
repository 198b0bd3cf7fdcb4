"""The paper's three model families: public sizes, chat templates, tokenizers of their kind."""

from pathlib import Path

import transformers
import yaml
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE

from sts_utils import corpora

HERE = Path(__file__).parent
FAMILIES = yaml.safe_load((HERE / "families.yaml").read_text(encoding="utf-8"))
#: Paper profile -> (class, dims) of its model's config.
PUBLIC = {name: (getattr(transformers, of["config"]), of["dims"]) for name, of in FAMILIES.items()}


def tokenizer(name: str, words: int) -> transformers.PreTrainedTokenizerFast:
    """A BPE tokenizer of the family's kind (byte-level, or with ▁ for spaces) of `words` tokens,
    which puts a BOS where the real one does."""
    of = FAMILIES[name]
    template = (HERE.parent / "chats" / of["template"]).read_text(encoding="utf-8")
    inner = Tokenizer(BPE(unk_token=None, byte_fallback=name == "gemma2-9b"))
    if name == "gemma2-9b":
        inner.normalizer = normalizers.Replace(" ", "▁")
        inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
        alphabet = [chr(i) for i in range(10, 127)]
    else:
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    asked = [*corpora.load("gsm-symbolic", 5, 60), *corpora.load("mmlu-test", 5, 1000)]
    told = {"vocab_size": words, "initial_alphabet": alphabet}
    told["special_tokens"] = of["marks"].split()
    inner.train_from_iterator([e.query for e in asked], trainers.BpeTrainer(**told))
    if bos := of["special"].get("bos_token"):
        pair = bos, inner.token_to_id(bos)
        inner.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[pair])
    more = {"chat_template": template, **of["special"]}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **more)
