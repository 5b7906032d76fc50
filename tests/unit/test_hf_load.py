"""What the in-process backend loads, and the one line it says when it cannot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.errors import ConfigError, TargetError
from loadgen.backends.base import Request
from loadgen.backends.hf import HfBackend
from loadgen.local_models import ensure_built, known_models
from loadgen.stopwatch import Stopwatch


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOADSTONE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.mark.asyncio
async def test_a_model_folder_brings_its_own_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tiny = next(model for model in known_models() if model.name == "tiny-gpt2")
    folder = tmp_path / "own"
    shutil.copytree(ensure_built(tiny), folder)
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "alpha": 1, "beta": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]").save_pretrained(folder)
    backend = HfBackend(str(folder), device="cpu")
    target = await backend.open()
    tokenizer = backend.tokenizer()
    facts = await backend.perform(
        Request("beta alpha gamma", 3), Stopwatch(time.monotonic, due=time.monotonic()), 60
    )
    await backend.close()
    assert target.model == str(folder)
    assert tokenizer is not None
    assert tokenizer.encode("beta alpha gamma") == [2, 1, 0]
    assert tokenizer.decode([2, 1]) == "beta alpha"
    assert (facts.prompt_tokens, facts.output_tokens) == (3, 3)


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", ["no weights", "torn weights", "other shape", "no config"])
async def test_an_unreadable_folder_is_one_line(tmp_path: Path, damage: str) -> None:
    tiny = next(model for model in known_models() if model.name == "tiny-gpt2")
    folder = tmp_path / "damaged"
    shutil.copytree(ensure_built(tiny), folder)
    file, config = folder / "model.safetensors", folder / "config.json"
    if damage == "no weights":
        file.unlink()
    elif damage == "torn weights":
        file.write_bytes(file.read_bytes()[:1000])
    elif damage == "other shape":
        config.write_text(config.read_text().replace('"n_layer": 2', '"n_layer": 3'))
    else:
        config.write_text("{}")
    backend = HfBackend(str(folder), device="cpu")
    with pytest.raises(TargetError) as caught:
        await backend.open()
    await backend.close()
    line = str(caught.value)
    assert line.startswith(f"model '{folder}': cannot be loaded from {folder}: ")
    assert "\n" not in line


@pytest.mark.asyncio
async def test_an_unknown_model_names_the_nearest() -> None:
    backend = HfBackend("tiny-gtp2", device="cpu")
    with pytest.raises(TargetError, match="did you mean 'tiny-gpt2'"):
        await backend.open()
    await backend.close()


@pytest.mark.asyncio
async def test_a_required_gpu_that_is_absent_is_a_missing_target() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    backend = HfBackend("tiny-gpt2", device="cuda")
    with pytest.raises(TargetError, match="sees no CUDA device; use cpu or auto"):
        await backend.open()
    await backend.close()


def test_settings_are_checked_at_the_door() -> None:
    with pytest.raises(ConfigError, match=r"device: 'cud', allowed: cpu, cuda, auto, did you mean"):
        HfBackend(device="cud")
    with pytest.raises(ConfigError, match="threads: 0, allowed: 1 or more"):
        HfBackend(threads=0)
