"""How the in-process backend comes by its model: device, weights, tokenizer, and their facts.

Everything here runs in the engine's worker thread. Nothing is downloaded, and no code that a
model folder brings along is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from contract.errors import TargetError
from loadgen.backends.base import Target, Tokenizer
from loadgen.backends.hf_engine import CudaMeter, Engine, HostMeter, out_of_memory
from loadgen.local_models import model_folder, require_extra
from loadgen.workload.words import WordTokenizer

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to load and where; `device` is cpu, cuda or auto; `threads` counts on a CPU."""

    model: str
    device: str
    threads: int
    seed: int


class FolderTokenizer:
    """A model folder's own tokenizer, without the special tokens it would put around a text."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def encode(self, text: str) -> list[int]:
        return list(self._inner.encode(text, add_special_tokens=False))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._inner.decode(list(ids)))


def load(settings: Settings) -> Engine:
    """Load, after building it if need be; runs in the worker thread, whose torch it sets up.

    Raises TargetError for an unknown or unreadable model and for a CUDA device that is not
    there, ConfigError for a cache that cannot be written or a missing extra.
    """
    require_extra()
    import torch

    device = _device(settings.device)
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
    folder = model_folder(settings.model, settings.seed)
    _import_loaders()
    began = perf_counter()
    network, tokenizer = _read(settings.model, folder, device)
    seconds = perf_counter() - began
    target = _target(settings, network, seconds)
    meter = CudaMeter(device) if device.type == "cuda" else HostMeter()
    return Engine(network, tokenizer, target, meter)


def _import_loaders() -> None:
    # transformers imports its classes on first use: seconds that are not the model's.
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        AutoTokenizer,
        DynamicCache,
        GPT2LMHeadModel,
    )


def _device(name: str) -> Any:
    import torch

    present = torch.cuda.is_available()
    if name == "cuda" and not present:
        raise TargetError(
            f"device cuda: torch {torch.__version__} sees no CUDA device; use cpu or auto"
        )
    return torch.device("cuda" if present and name != "cpu" else "cpu")


def _read(name: str, folder: Path, device: Any) -> tuple[Any, Tokenizer]:
    from safetensors import SafetensorError

    try:
        network = _network(folder, device)
        return network, _tokenizer(folder, int(network.config.vocab_size))
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        why = str(error).strip().partition("\n")[0]
        raise TargetError(f"model {name!r}: cannot be loaded from {folder}: {why}") from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise TargetError(
            f"model {name!r}: does not fit into the memory of {device}; take a smaller one"
        ) from error


def _network(folder: Path, device: Any) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    network, found = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float16 if device.type == "cuda" else torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
    )
    if missing := found["missing_keys"]:
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {min(missing)}")
    network = network.to(device).eval()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return network


def _tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        return WordTokenizer(vocabulary)
    from transformers import AutoTokenizer

    return FolderTokenizer(
        AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    )


def _target(settings: Settings, network: Any, load_seconds: float) -> Target:
    import torch
    import transformers

    config, weights = network.config, list(network.parameters())
    cuda = network.device.type == "cuda"
    return Target(
        model=settings.model,
        models=(settings.model,),
        version=f"transformers {transformers.__version__}, torch {torch.__version__}",
        quantization="fp16" if cuda else "fp32",
        parameters=sum(w.numel() for w in weights),
        weight_bytes=sum(w.numel() * w.element_size() for w in weights),
        context_length=getattr(config, "max_position_embeddings", None),
        notes={
            "load_seconds": load_seconds,
            "device": str(network.device),
            "threads": None if cuda else torch.get_num_threads(),
            "layers": getattr(config, "num_hidden_layers", None),
            "width": getattr(config, "hidden_size", None),
            "heads": getattr(config, "num_attention_heads", None),
        },
    )
