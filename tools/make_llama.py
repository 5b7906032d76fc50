"""Make a Llama of random weights as a folder, for trying vLLM or transformers serve without a hub.

    python -m tools.make_llama small small/

The shapes are those of make_gguf.py. One word of ours is one token, so that texts come out as
words; other words are unknown to it. Seeded. Wants torch, tokenizers and transformers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tools.make_gguf import BOS, CHAT, CONTEXT, EOS, SHAPES

UNKNOWN = "<unk>"


def write_llama(shape: str, folder: Path) -> Path:
    """Write a model of that shape, a key of SHAPES, and return its folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, sizes = _tokenizer(), SHAPES[shape]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=sizes.width, intermediate_size=sizes.inner,
            num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
            num_key_value_heads=sizes.kv_heads, max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from loadgen.workload.words import WORDS

    vocabulary = {word: i for i, word in enumerate([*WORDS, UNKNOWN, BOS, EOS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=UNKNOWN, bos_token=BOS, eos_token=EOS, pad_token=EOS,
        model_max_length=CONTEXT,
    )  # fmt: skip
    tokenizer.chat_template = CHAT
    return tokenizer


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"error: usage: make_llama {'|'.join(SHAPES)} FOLDER")
    print(write_llama(sys.argv[1], Path(sys.argv[2])))
