"""The pages of the server families: what they say, what they leave out, what contradicts."""

import pytest

from contract.errors import TargetError
from loadgen.backends.base import Target
from loadgen.backends.families import (
    Page,
    llama_server,
    ollama,
    ollama_models,
    parameter_count,
    tgi,
    tgi_model,
    vllm,
)
from loadgen.backends.preflight import ModelFacts

TAGS = {
    "models": [
        {"name": "qwen2.5:7b", "model": "qwen2.5:7b", "size": 4_683_087_332,
         "details": {"parameter_size": "7.6B", "quantization_level": "Q4_K_M"}},
        {"name": "remote:latest", "details": {}},
        {"model": "nameless"},
    ]
}  # fmt: skip
SHOW = {
    "details": {"parameter_size": "7.6B", "quantization_level": "Q4_K_M"},
    "model_info": {
        "general.architecture": "qwen2",
        "general.parameter_count": 7_615_616_512,
        "qwen2.context_length": 32_768,
    },
}
RUNNING = {"name": "qwen2.5:7b", "model": "qwen2.5:7b", "size": 8_000, "size_vram": 6_000,
           "context_length": 4096}  # fmt: skip
TARGET = Target("qwen2.5:7b", ("qwen2.5:7b",), address="http://there")


def test_the_models_ollama_has():
    assert ollama_models(TAGS) == [
        ModelFacts("qwen2.5:7b", None, 7_600_000_000, 4_683_087_332, "Q4_K_M"),
        ModelFacts("remote:latest"),
    ]


@pytest.mark.parametrize(
    ("size", "count"),
    [("7.6B", 7_600_000_000), ("137M", 137_000_000), ("8x7B", None), ("", None), (7, None)],
)
def test_a_parameter_size_in_words(size, count):
    assert parameter_count(size) == count


def test_a_model_at_work_runs_with_the_context_of_its_runner():
    found = ollama().describe(TARGET, (SHOW, {"models": [RUNNING]}))

    assert (found.parameters, found.quantization) == (7_615_616_512, "Q4_K_M")
    assert found.context_length == 4096
    assert found.notes == {
        "trained_context_length": 32_768,
        "gpu_share": 0.75,
    }


def test_a_model_not_loaded_has_an_unknown_context_unless_one_is_asked_for():
    assert ollama().describe(TARGET, (SHOW, {"models": []})).context_length is None
    assert ollama(2048).describe(TARGET, (SHOW, {"models": []})).context_length == 2048
    assert ollama(99_999).describe(TARGET, (SHOW, {"models": []})).context_length == 32_768


def test_pages_that_are_not_there_say_nothing():
    found = ollama().describe(TARGET, (None, None))

    assert (found.parameters, found.context_length) == (None, None)
    assert found.notes == {}


@pytest.mark.parametrize(
    ("document", "model", "present"),
    [
        ({"models": [RUNNING]}, "qwen2.5:7b", True),
        ({"models": [{"name": "phi:latest"}]}, "phi", True),
        ({"models": [{"name": "phi:latest"}]}, "phi:mini", False),
        ({"models": []}, "phi", False),
        (None, "phi", None),
    ],
)
def test_ollama_says_whether_a_model_is_in_memory(document, model, present):
    assert ollama().present(document, model) is present


def test_ollama_is_told_to_unload_with_an_empty_prompt():
    assert ollama().unloading("phi") == Page("/api/generate", {"model": "phi", "keep_alive": 0})


INFO = {"model_id": "bigscience/bloom-560m", "max_input_tokens": 1024, "max_total_tokens": 2048,
        "max_concurrent_requests": 128, "version": "3.3.6-dev0"}  # fmt: skip


def test_tgi_says_everything_on_one_page():
    assert tgi_model(INFO) == [ModelFacts("bigscience/bloom-560m", context_length=2048)]
    assert tgi().survey.version(INFO) == "3.3.6-dev0"
    target = Target("bigscience/bloom-560m", ("bigscience/bloom-560m",), context_length=2048)

    found = tgi().describe(target, (INFO,))

    assert found.notes == {"max_input_tokens": 1024, "max_concurrent_requests": 128}
    assert tgi_model({"detail": "Not Found"}) == []


PROPS = {"default_generation_settings": {"n_ctx": 1024}, "total_slots": 4, "model_ftype": "F16",
         "build_info": "b1-0c1e570", "is_sleeping": False}  # fmt: skip


def test_llama_server_says_context_per_slot_build_and_sleep():
    target = Target("tiny", ("tiny",), context_length=4096)

    found = llama_server().describe(target, (PROPS,))

    assert (found.context_length, found.quantization) == (1024, "F16")
    assert found.notes == {"slots": 4}
    assert llama_server().survey.version(PROPS) == "b1-0c1e570"
    assert llama_server().describe(target, (None,)) == target


@pytest.mark.parametrize(("asleep", "present"), [(True, False), (False, True), (None, None)])
@pytest.mark.parametrize("family", [llama_server(), vllm()], ids=["llama-server", "vllm"])
def test_a_sleeper_is_not_in_memory(family, asleep, present):
    assert family.present({"is_sleeping": asleep}, "m") is present


@pytest.mark.parametrize("family", [tgi(), llama_server()], ids=["tgi", "llama-server"])
def test_a_server_that_answers_to_any_name_is_not_measured_under_a_wrong_one(family):
    with pytest.raises(TargetError, match=r"does not serve model 'tny', did you mean 'tiny'\?"):
        family.describe(Target("tny", ("tiny",), address="http://there"), (None,))


def test_a_prefix_cache_is_emptied_at_once_or_slot_by_slot():
    target = Target("tiny", notes={"slots": 2})

    assert vllm().reset.pages(target) == (Page("/reset_prefix_cache", {}),)
    assert llama_server().reset.pages(target) == (
        Page("/slots/0?action=erase", {}),
        Page("/slots/1?action=erase", {}),
    )
    assert len(llama_server().reset.pages(Target("tiny"))) == 1
    assert ollama().reset is tgi().reset is None
