"""Make a Llama of random weights as a GGUF file, for trying llama-server without a model hub.

    python -m tools.make_gguf small small.gguf

`tiny` has two layers, `small` 8 of width 512: slow enough on a processor for its latency to be
measured. Its texts are noise; times, counts and protocol are real. Seeded: the same versions make
the same file. Wants numpy, tokenizers and gguf.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT, VOCABULARY = 2048, 1024
BOS, EOS = "<s>", "</s>"
CHAT = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int

    @property
    def head(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads

    def matrices(self) -> dict[str, tuple[int, int]]:
        """The matrices of one layer: rows are outputs, columns inputs."""
        wide, kv, inner = self.width, self.kv_heads * self.head, self.inner
        return {
            "attn_q": (wide, wide),
            "attn_k": (kv, wide),
            "attn_v": (kv, wide),
            "attn_output": (wide, wide),
            "ffn_gate": (inner, wide),
            "ffn_up": (inner, wide),
            "ffn_down": (wide, inner),
        }


SHAPES = {
    "tiny": Shape(layers=2, width=64, heads=2, kv_heads=1, inner=128),
    "small": Shape(layers=8, width=512, heads=8, kv_heads=4, inner=1408),
}


def write_gguf(shape: str, path: Path) -> Path:
    """Write a model of that shape, a key of SHAPES, and return its path."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    tokens = _add_tokenizer(writer, gguf.TokenType)
    _add_shape(writer, SHAPES[shape], len(tokens))
    writer.add_name(shape)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_weights(writer, SHAPES[shape], tokens)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: Any, kinds: Any) -> list[str]:
    """A byte-level BPE that knows our words; returns its tokens by their numbers."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    from loadgen.workload.words import WORDS

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([" ".join(WORDS)], trainer)
    vocabulary = bpe.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(bpe.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.CONTROL if t in (BOS, EOS) else kinds.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(vocabulary[BOS])
    writer.add_eos_token_id(vocabulary[EOS])
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT)
    return tokens


def _add_shape(writer: Any, shape: Shape, vocabulary: int) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocabulary)


def _add_weights(writer: Any, shape: Shape, tokens: list[str]) -> None:
    import numpy as np

    draw = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return draw.normal(0.0, 0.05, (rows, columns)).astype(np.float16)

    ones = np.ones(shape.width, dtype=np.float32)
    # A token that is no whole ASCII text never has the highest logit: what comes out is always
    # complete UTF-8, so that every token is a chunk.
    out = matrix(len(tokens), shape.width)
    out[[not _plain(token) for token in tokens]] = 0
    writer.add_tensor("token_embd.weight", matrix(len(tokens), shape.width))
    for layer in range(shape.layers):
        for name, (rows, columns) in shape.matrices().items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", matrix(rows, columns))
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", ones)
    writer.add_tensor("output_norm.weight", ones)
    writer.add_tensor("output.weight", out)


def _plain(token: str) -> bool:
    """Whether a token is text of its own; `Ġ` is how byte-level BPE writes a space."""
    text = token.replace("Ġ", " ")
    return text.isascii() and text.isprintable() and token not in (BOS, EOS)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"error: usage: make_gguf {'|'.join(SHAPES)} FILE")
    print(write_gguf(sys.argv[1], Path(sys.argv[2])))
