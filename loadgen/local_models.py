"""Local models: GPT-2 architectures with seeded random weights, built on first use.

Speed depends on shape, not on what the weights say, so nothing is downloaded. A built model
lies in the cache folder (`LOADSTONE_CACHE`, else `XDG_CACHE_HOME/loadstone`, else
`~/.cache/loadstone`) and is loaded from there like any other model folder.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from contract.errors import ConfigError, TargetError, nearest
from loadgen.workload.words import WORDS

# Part of every folder's name: raise it when the same shape and seed shall give other files.
BUILD_VERSION = 1
BYTES_PER_WEIGHT = 4
GPT2_VOCABULARY = 50257
DEFAULT_MODEL = "small-gpt2"
EXTRA = "loadstone[hf]"


@dataclass(frozen=True, slots=True)
class LocalModel:
    """The shape of a GPT-2: `width` is split over `heads`; input and output embedding are tied."""

    name: str
    layers: int
    width: int
    heads: int
    vocabulary: int = GPT2_VOCABULARY
    context_length: int = 1024

    @property
    def parameters(self) -> int:
        """Weights and biases: embeddings, per layer 12 d² + 13 d, and the last layer norm."""
        d = self.width
        embeddings = (self.vocabulary + self.context_length) * d
        return embeddings + self.layers * (12 * d * d + 13 * d) + 2 * d

    @property
    def weight_bytes(self) -> int:
        """Size of the weights on disk, in single precision."""
        return self.parameters * BYTES_PER_WEIGHT


_MODELS = (
    # A vocabulary as small as the word list keeps its output layer from outweighing the rest.
    LocalModel(DEFAULT_MODEL, layers=4, width=256, heads=4, vocabulary=len(WORDS)),
    # The shapes of the model-scaling study TR121, appendix A.
    LocalModel("tiny-gpt2", layers=2, width=2, heads=2),
    LocalModel("gpt2-5m", layers=12, width=80, heads=2),
    LocalModel("gpt2-25m", layers=3, width=384, heads=2),
    LocalModel("gpt2-45m", layers=6, width=512, heads=8),
    LocalModel("gpt2-50m", layers=8, width=512, heads=2),
    LocalModel("gpt2-75m", layers=5, width=768, heads=2),
    LocalModel("gpt2-100m", layers=8, width=768, heads=2),
)


def known_models() -> tuple[LocalModel, ...]:
    """Every model that needs no download, the default first."""
    return _MODELS


def cache_folder() -> Path:
    """Where built models are kept; it need not exist yet. ConfigError without a home folder."""
    if own := os.environ.get("LOADSTONE_CACHE"):
        return Path(own).absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "loadstone"
    try:
        return Path.home() / ".cache" / "loadstone"
    except RuntimeError as error:
        raise ConfigError(
            "LOADSTONE_CACHE: not set, and there is no home folder; set it to a writable folder"
        ) from error


def model_folder(name: str, seed: int = 0) -> Path:
    """The folder of a known model, built when absent, or of a local folder with a config.json.

    Raises TargetError when `name` is neither, ConfigError when the cache cannot be written.
    """
    for model in _MODELS:
        if model.name == name:
            return ensure_built(model, seed)
    folder = Path(os.path.expanduser(name))
    if os.path.isfile(folder / "config.json"):
        return folder
    names = [model.name for model in _MODELS]
    raise TargetError(
        f"model {name!r}: neither a folder with a config.json nor a local model"
        f"{nearest(name, names)} (local models: {', '.join(names)})"
    )


def built_folder(model: LocalModel, seed: int = 0) -> Path:
    """Where `model` lies once built: another shape, seed or build version is another folder."""
    identity = repr((BUILD_VERSION, seed, *astuple(model)))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return cache_folder() / "models" / f"{model.name}-{digest}"


def ensure_built(model: LocalModel, seed: int = 0) -> Path:
    """Build `model` unless it is there; safe for several processes at once.

    A folder appears under its final name only when complete, by a rename. Raises ConfigError
    when the cache cannot be written or the `hf` extra is missing.
    """
    folder = built_folder(model, seed)
    if folder.is_dir():
        return folder
    require_extra()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.parent / f"{folder.name}.lock"):
            if not folder.is_dir():
                _build(model, seed, folder)
    except OSError as error:
        megabytes = -(-model.weight_bytes // 10**6)
        raise ConfigError(
            f"LOADSTONE_CACHE: cannot build {model.name} in {folder.parent}"
            f" ({error.strerror or error}); set it to a writable folder with {megabytes} MB free"
        ) from error
    return folder


def require_extra() -> None:
    """Import torch and transformers; ConfigError names the extra that installs them."""
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"backend hf: {error.name or error} is not installed; pip install '{EXTRA}'"
        ) from error
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The system drops the lock with its holder, so a killed builder leaves none behind.
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(model: LocalModel, seed: int, folder: Path) -> None:
    partial = folder.parent / f".{folder.name}.partial"
    if partial.exists():  # of a builder that was killed: we hold the lock, so nobody writes it
        shutil.rmtree(partial)
    _require_space(folder.parent, model.weight_bytes)
    try:
        _save(model, seed, partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _require_space(folder: Path, needed: int) -> None:
    # Looked at beforehand, so that a build that cannot end well does not first fill the disk.
    if shutil.disk_usage(folder).free < needed + 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _save(model: LocalModel, seed: int, folder: Path) -> None:
    import torch
    from safetensors import SafetensorError
    from transformers import GPT2Config, GPT2LMHeadModel

    last = model.vocabulary - 1
    config = GPT2Config(
        vocab_size=model.vocabulary,
        n_positions=model.context_length,
        n_embd=model.width,
        n_layer=model.layers,
        n_head=model.heads,
        bos_token_id=last,
        eos_token_id=last,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GPT2LMHeadModel(config)
    try:
        network.save_pretrained(folder)
    except SafetensorError as error:
        raise OSError(str(error)) from error
