"""Local models: printed sizes, reproducible weights, and a cache no half-built model gets into."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from contract.errors import ConfigError, TargetError
from loadgen.local_models import (
    DEFAULT_MODEL,
    LocalModel,
    built_folder,
    cache_folder,
    ensure_built,
    known_models,
    model_folder,
)

# Model-scaling study TR121, appendix A: millions of parameters, layers, width, heads.
PRINTED = {
    "tiny-gpt2": (0.103, 2, 2, 2),
    "gpt2-5m": (5.037, 12, 80, 2),
    "gpt2-25m": (25.016, 3, 384, 2),
    "gpt2-45m": (45.171, 6, 512, 8),
    "gpt2-50m": (51.476, 8, 512, 2),
    "gpt2-75m": (74.825, 5, 768, 2),
    "gpt2-100m": (96.088, 8, 768, 2),
}
TINY = LocalModel("tiny-gpt2", layers=2, width=2, heads=2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOADSTONE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_known_models_have_the_printed_shapes_and_sizes() -> None:
    found = {
        m.name: (round(m.parameters / 1e6, 3), m.layers, m.width, m.heads)
        for m in known_models()
        if m.name != DEFAULT_MODEL
    }
    assert found == PRINTED


def test_default_comes_first_and_spends_its_parameters_on_layers() -> None:
    default = known_models()[0]
    assert default.name == DEFAULT_MODEL
    assert default.parameters == 5_060_096
    assert default.vocabulary * default.width < default.parameters / 2


@pytest.mark.parametrize("name", ["tiny-gpt2", "gpt2-25m"])
def test_built_model_has_the_computed_number_of_parameters(name: str) -> None:
    from transformers import AutoModelForCausalLM

    model = next(m for m in known_models() if m.name == name)
    network = AutoModelForCausalLM.from_pretrained(ensure_built(model), local_files_only=True)
    assert network.num_parameters() == model.parameters
    assert round(network.num_parameters() / 1e6, 3) == PRINTED[name][0]


def test_seed_decides_the_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = weights(ensure_built(TINY, seed=7))
    other_seed = weights(ensure_built(TINY, seed=8))
    monkeypatch.setenv("LOADSTONE_CACHE", str(tmp_path / "elsewhere"))
    assert weights(ensure_built(TINY, seed=7)) == first
    assert other_seed != first


def test_building_leaves_the_global_random_state_alone() -> None:
    import torch

    before = torch.random.get_rng_state()
    ensure_built(TINY)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_built_model_is_reused() -> None:
    folder = ensure_built(TINY)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert ensure_built(TINY) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written


def test_remains_of_a_killed_builder_are_never_used() -> None:
    folder = built_folder(TINY)
    partial = folder.parent / f".{folder.name}.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    (partial / "stray.bin").write_bytes(b"half")
    assert ensure_built(TINY) == folder
    assert not partial.exists()
    assert not (folder / "stray.bin").exists()
    assert (folder / "model.safetensors").stat().st_size > TINY.weight_bytes


def test_builders_at_once_agree_on_one_folder() -> None:
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: ensure_built(TINY), range(3)))
    assert folders == {built_folder(TINY)}
    kept = sorted(path.name for path in built_folder(TINY).parent.iterdir())
    assert kept == [built_folder(TINY).name, f"{built_folder(TINY).name}.lock"]


def test_unwritable_cache_is_one_line_with_the_remedy(cache: Path) -> None:
    cache.write_text("a file where a folder should be")
    with pytest.raises(ConfigError) as caught:
        ensure_built(TINY)
    line = str(caught.value)
    assert line.startswith("LOADSTONE_CACHE: cannot build tiny-gpt2 in")
    assert "Not a directory" in line
    assert line.endswith("set it to a writable folder with 1 MB free")
    assert "\n" not in line


def test_model_larger_than_the_disk_is_refused_before_anything_is_written(cache: Path) -> None:
    huge = LocalModel("huge", layers=10**6, width=8192, heads=2)
    with pytest.raises(ConfigError, match="No space left on device"):
        ensure_built(huge)
    assert [path.suffix for path in (cache / "models").iterdir()] == [".lock"]


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOADSTONE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/loadstone")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/loadstone")


def test_folder_with_a_config_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_folder(str(tmp_path)) == tmp_path


def test_unknown_model_names_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(TargetError) as caught:
        model_folder("gpt2-15m")
    assert "did you mean 'gpt2-5m'?" in str(caught.value)
    assert all(name in str(caught.value) for name in PRINTED)


def run_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_listing_models_imports_nothing_heavy() -> None:
    heavy = run_python(
        "import sys, loadgen.local_models as m, loadgen.backends.hf as b; m.known_models();"
        "b.HfBackend();"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    assert heavy == "set()"


def test_missing_extra_is_one_line_that_says_what_to_install() -> None:
    line = run_python(
        "import sys; sys.modules['torch'] = None\n"
        "from contract.errors import ConfigError\n"
        "from loadgen.local_models import require_extra\n"
        "try: require_extra()\n"
        "except ConfigError as error: print(error)"
    )
    assert line == "backend hf: torch is not installed; pip install 'loadstone[hf]'"
