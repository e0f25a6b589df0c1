"""A checkpoint's own generation settings: where texts end and what else changes them, as with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, GenerationConfig

import jaxpaint as jp
from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.generation import Prompt, generate
from jaxpaint.generation import decode as engine
from jaxpaint.generation.settings import GenerationSettings, generation_settings, parse_settings
from jaxpaint.models import checkpoint
from tests.helpers.generation_configs import by_transformers, with_settings
from tests.helpers.hostile import as_first_stores
from tests.helpers.tiny_folder import make_folder

NEW = 16
_draw = np.random.default_rng(0)
PROMPTS = [tuple(_draw.integers(2, 300, size).tolist()) for size in (1, 3, 7, 20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="module")
def model(folder) -> jp.Model:
    return jp.load(convert(folder, folder.parent / "store"), dtype="float32")


@pytest.fixture(scope="module")
def network(folder) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def free(network) -> list[tuple[int, ...]]:
    """What is written without any settings."""
    network.generation_config = GenerationConfig()
    found = by_transformers(network, PROMPTS, NEW)
    assert not any(1 in text for text in found), "the tokenizer's end of sequence, which ends texts here and not there"
    return found


def until(text: tuple[int, ...], token: int) -> tuple[int, ...]:
    return text[: text.index(token) + 1]


def ours(model: jp.Model, **options: Any) -> list[tuple[int, ...]]:
    prompts = [Prompt(tokens, NEW) for tokens in PROMPTS]
    found = {each.prompt: each for each in generate(model, prompts, [model.full_plan], batch_size=2, **options)}
    return [(*each.tokens, *([] if each.end is None else [each.end])) for _, each in sorted(found.items())]


def settings_of(free: list[tuple[int, ...]]) -> dict[str, dict[str, Any]]:
    """Of each kind, so that it changes what is written: about tokens that are."""
    used, first = [free[2][5], free[3][8], free[1][9]], [text[0] for text in free]
    return {
        "an end": {"eos_token_id": used[0]},
        "several ends": {"eos_token_id": [1, *used]},
        "penalty": {"repetition_penalty": 1.4},
        "the other way": {"repetition_penalty": 0.7, "eos_token_id": used},
        "suppressed": {"suppress_tokens": [-1, 10**6, *used, first[0]]},
        "suppressed at first": {"begin_suppress_tokens": first},
        "least length": {"min_length": 12, "eos_token_id": [*used, free[0][1]]},
        "least new tokens": {"min_new_tokens": 9, "min_length": 40, "eos_token_id": used},
        "first token": {"forced_bos_token_id": 7},
        "first token and suppressed": {"forced_bos_token_id": 7, "begin_suppress_tokens": list(range(200))},
        "last token": {"forced_eos_token_id": 5},
        "last tokens": {"forced_eos_token_id": [9, 5], "eos_token_id": used},
        "many": {
            **{"eos_token_id": used, "repetition_penalty": 1.2, "suppress_tokens": [free[2][0]]},
            **{"begin_suppress_tokens": [free[3][0]], "min_new_tokens": 7, "forced_eos_token_id": 1},
        },
    }


@pytest.mark.parametrize("kv", ["exact", "mean"])
@pytest.mark.parametrize("static", [True, False], ids=["compiled plan", "plan as data"])
@pytest.mark.slow
def test_every_setting_does_as_with_transformers(model, network, free, kv, static):
    for name, values in settings_of(free).items():
        network.generation_config = GenerationConfig(**values)
        expected = by_transformers(network, PROMPTS, NEW)
        assert expected != free, name
        assert ours(model, settings=parse_settings(values, name), kv=kv, static=static) == expected, name


@pytest.mark.slow
def test_no_value_compiles_anew(model, free):
    values = [parse_settings(each, name) for name, each in settings_of(free).items()]
    counts = []
    for each in [value for value in values if value.changes_logits]:
        ours(model, settings=each, kv="mean", static=False)
        counts.append((engine.decode.executables(), engine.begin_with_means.executables()))
    assert len(counts) > 8
    assert len(set(counts)) == 1
    before = engine.decode.executables()
    for ends in ((3,), (3, 4), (3, 4, 5, 6)):
        ours(model, settings=GenerationSettings(ends), kv="mean", static=False)
    assert engine.decode.executables() <= before + 1


@pytest.mark.slow
def test_a_row_that_goes_to_another_prompt_forgets(model, free):
    """In two rows and in four: what one text has seen does not count for the next."""
    penalised = GenerationSettings(repetition_penalty=1.5, eos_token_id=(free[0][3],))
    assert ours(model, settings=penalised) == [
        ours_alone(model, tokens, penalised) for tokens in PROMPTS
    ]  # each in a row of its own


def ours_alone(model: jp.Model, tokens: tuple[int, ...], settings: GenerationSettings) -> tuple[int, ...]:
    (found,) = generate(model, [Prompt(tokens, NEW)], [model.full_plan], settings=settings)
    return (*found.tokens, *([] if found.end is None else [found.end]))


# --- From the folder --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "config"),
    [
        ({"eos_token_id": [1, "used"], "repetition_penalty": 1.1}, {}),
        ({"eos_token_id": 1}, {"eos_token_id": ["used"], "repetition_penalty": 1.5}),
        (None, {"eos_token_id": [1, "used"]}),
        (None, {"eos_token_id": "used", "repetition_penalty": 1.2, "min_length": 11}),
    ],
    ids=["generation_config.json", "which goes before config.json", "config.json alone", "and its older settings"],
)
@pytest.mark.few(1)
def test_a_folder_writes_as_with_transformers(folder, free, tmp_path, generation, config):
    def filled(values: Any) -> Any:
        return json.loads(json.dumps(values).replace('"used"', str(free[2][5])))

    copy = with_settings(folder, tmp_path / "model", filled(generation), filled(config))
    expected = by_transformers(AutoModelForCausalLM.from_pretrained(copy), PROMPTS, NEW)
    model = jp.load(convert(copy, tmp_path / "store"), dtype="float32")
    assert ours(model) == expected
    exported = export(tmp_path / "store", tmp_path / "exported", model.full_plan)
    assert by_transformers(AutoModelForCausalLM.from_pretrained(exported), PROMPTS, NEW) == expected
    if generation is not None:
        kept, original = (each / "generation_config.json" for each in (exported, copy))
        assert kept.read_bytes() == original.read_bytes()


def test_a_silent_generation_config_leaves_ends_to_config_json(folder, free, tmp_path):
    copy = with_settings(folder, tmp_path / "model", {"temperature": 0.6}, {"eos_token_id": [free[2][5]]})
    model = jp.load(convert(copy, tmp_path / "store"), dtype="float32")
    assert generation_settings(model) == GenerationSettings((free[2][5],))


def test_a_store_of_before_has_what_config_json_says(folder, free, tmp_path):
    copy = with_settings(folder, tmp_path / "model", {"eos_token_id": [1, 5]}, {"eos_token_id": [1, free[2][5]]})
    store = convert(copy, tmp_path / "store")
    as_first_stores(store)
    (store / "generation_config.json").unlink()
    model = jp.load(store, dtype="float32")
    assert generation_settings(model).eos_token_id == (1, free[2][5])
    assert ours(model)[2] == until(free[2], free[2][5])
    export(store, tmp_path / "exported", model.full_plan)
    assert not (tmp_path / "exported" / "generation_config.json").exists()


def test_texts_end_at_the_tokenizers_end_too(folder, free, tmp_path):
    end = next(token for token in free[3] if token not in free[2])
    copy = with_settings(folder, tmp_path / "model", {"eos_token_id": end})
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    tokens = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    spelt = next(spelling for spelling, number in tokens.items() if number == free[2][5])
    (copy / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": spelt}))
    found = ours(jp.load(convert(copy, tmp_path / "store"), dtype="float32"))
    assert found[2] == until(free[2], free[2][5])
    assert found[3] == until(free[3], end)


def test_a_store_without_a_tokenizer_ends_at_the_checkpoints_ends(folder, free, tmp_path):
    copy = with_settings(folder, tmp_path / "model", {"eos_token_id": [free[2][5]]})
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert ours(jp.load(convert(copy, tmp_path / "store"), dtype="float32"))[2] == until(free[2], free[2][5])


@pytest.mark.slow
def test_a_cached_store_is_made_anew_for_another_generation_config(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    copy = with_settings(folder, tmp_path / "model", {"eos_token_id": 5})
    assert generation_settings(jp.load(copy, dtype="float32")).eos_token_id == (5,)
    (copy / "generation_config.json").write_text('{"eos_token_id": [5, 17]}')
    assert generation_settings(jp.load(copy, dtype="float32")).eos_token_id == (5, 17)


# --- What is named, and what cannot be ----------------------------------------------------------------------


def test_what_is_not_honoured_is_named():
    values = {"num_beams": 4, "no_repeat_ngram_size": 3, "bad_words_ids": [[5, 6]], "something_new": 2}
    found = parse_settings({**values, "repetition_penalty": 1.3, "eos_token_id": [1, 2]}, "here")
    assert found.described(1) == {"repetition_penalty": 1.3, "eos_token_id": [1, 2], "not_honoured": values}
    first, second = found.lines(1)
    assert first.endswith("repetition_penalty=1.3, eos_token_id=[1, 2]")
    assert "not honoured" in second
    assert second.endswith("bad_words_ids=[[5, 6]], no_repeat_ngram_size=3, num_beams=4, something_new=2")


def test_what_changes_nothing_is_not_named():
    """The defaults that transformers writes, drawing, and ends that the tokenizer has."""
    defaults = {**GenerationConfig().to_dict(), **GenerationConfig._get_default_generation_params()}
    drawing = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "max_length": 4096}
    found = parse_settings({**defaults, **drawing, "eos_token_id": [1], "bos_token_id": 0, "pad_token_id": 3}, "here")
    assert found == GenerationSettings((1,))
    assert found.described(1) == {}
    assert found.lines(1) == []
    assert found.lines(None) == ["as the checkpoint's generation settings say: eos_token_id=[1]"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"eos_token_id": [1, None]}, "eos_token_id"),
        ({"eos_token_id": True}, "eos_token_id"),
        ({"repetition_penalty": 0}, "repetition_penalty: input should be greater than 0"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"suppress_tokens": 5}, "suppress_tokens"),
        ({"min_new_tokens": -1}, "min_new_tokens"),
    ],
    ids=str,
)
def test_values_that_cannot_be(values, message):
    with pytest.raises(UserError, match=message):
        parse_settings(values, "generation_config.json")


def test_a_forced_token_beyond_the_vocabulary(model):
    with pytest.raises(UserError, match="forced_eos_token_id is 5000, but the vocabulary has"):
        ours(model, settings=GenerationSettings(forced_eos_token_id=(5000,)))


@pytest.mark.parametrize("text", ["[1, 2]", "{", '{"eos_token_id": NaN}', "[" * 100_000], ids=lambda text: text[:20])
def test_a_file_that_is_no_generation_config(folder, tmp_path, text):
    copy = with_settings(folder, tmp_path / "model", {})
    (copy / "generation_config.json").write_text(text)
    with pytest.raises(UserError, match=r"generation_config\.json"):
        convert(copy, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_damaged_store(folder, tmp_path):
    store = convert(with_settings(folder, tmp_path / "model", {"eos_token_id": 5}), tmp_path / "store")
    model = jp.load(store, dtype="float32")
    (store / checkpoint.GENERATION_CONFIG).write_text('{"eos_token_id": 6}')
    with pytest.raises(UserError, match=r"generation_config\.json is not the file that the store was written with"):
        ours(model)
    (store / checkpoint.GENERATION_CONFIG).unlink()
    with pytest.raises(UserError, match=r"generation_config\.json cannot be read"):
        ours(model)
