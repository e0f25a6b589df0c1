"""lm-eval tasks of every kind over invented documents in local files, as YAML files of a user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NOUNS = ["kettle", "lantern", "harbour", "ladder", "violin", "orchard", "saddle", "compass", "anvil", "feather"]


def _choice(number: int) -> dict[str, Any]:
    # Some questions have three choices, and choices have several lengths, so that acc and acc_norm part.
    choices = [f"{'ABCDEFGHIJ'[(number + 3 * shift) % 10]}" + "!" * (shift % 2) for shift in range(3 + number % 2)]
    return {"question": f"Where is thing {number}?", "choices": choices, "gold": number % 3}


def _last_word(number: int) -> dict[str, Any]:
    return {"context": f"{number}: she put the {NOUNS[number % 7]} on the", "word": f" {NOUNS[number % 10]}"}


def _blank(number: int) -> dict[str, Any]:
    end = f"had asked for number {number}."
    return {"options": [f"Ada got the {NOUNS[number % 10]} as {who}" for who in ("Ada", "Bea")], "end": end}


def _text(number: int) -> dict[str, Any]:
    return {"text": " ".join(f"The {NOUNS[(number + k) % 10]} is in the harbour." for k in range(number % 5 + 1))}


def _metrics(*names: str) -> list[dict[str, Any]]:
    aggregation = {"acc": "mean", "acc_norm": "mean", "perplexity": "perplexity", "bits_per_byte": "bits_per_byte"}
    return [
        {
            "metric": name,
            "aggregation": aggregation.get(name, "weighted_perplexity"),
            "higher_is_better": name.startswith("acc"),
        }
        for name in names
    ]


CONFIGURATIONS: dict[str, tuple[Callable[[int], dict[str, Any]], dict[str, Any]]] = {
    "tiny_choice": (
        _choice,
        {
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "choices",
            "doc_to_target": "gold",
            "metric_list": _metrics("acc", "acc_norm"),
        },
    ),
    "tiny_word": (
        _last_word,
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{word}}",
            "metric_list": _metrics("perplexity", "acc"),
        },
    ),
    "tiny_blank": (
        _blank,
        {
            "output_type": "multiple_choice",
            "doc_to_text": 1,
            "doc_to_choice": "options",
            "doc_to_target": "end",
            "metric_list": _metrics("acc"),
        },
    ),
    "tiny_write": (
        _last_word,
        {
            "output_type": "generate_until",
            "doc_to_text": "{{context}}",
            "doc_to_target": "{{word}}",
            "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 9, "do_sample": False},
            "filter_list": [
                {"name": "whole", "filter": [{"function": "take_first"}]},
                {
                    "name": "letter",
                    "filter": [{"function": "regex", "regex_pattern": "([a-z])"}, {"function": "take_first"}],
                },
            ],
            "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        },
    ),
    "tiny_text": (
        _text,
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": _metrics("word_perplexity", "byte_perplexity", "bits_per_byte"),
        },
    ),
}


SCORED = [name for name, (_, task) in CONFIGURATIONS.items() if task["output_type"] != "generate_until"]


def make_task(folder: Path, name: str, *, documents: int = 12, shots: int = 0, **changes: Any) -> str:
    """Writes the task's documents and YAML file (JSON is YAML) and gives the file's path, which stands for the task."""
    item, configuration = CONFIGURATIONS[name]
    folder.mkdir(parents=True, exist_ok=True)
    files = {"test": folder / f"{name}.jsonl", "train": folder / f"{name}_train.jsonl"}
    for file, numbers in zip(files.values(), (range(documents), range(100, 120)), strict=True):
        file.write_text("".join(json.dumps(item(number)) + "\n" for number in numbers))
    whole = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {split: str(file) for split, file in files.items()}},
        "test_split": "test",
        "metadata": {"version": 3},
        **configuration,
        **changes,
    }
    if shots:
        whole |= {"fewshot_split": "train", "num_fewshot": shots}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(whole))
    return str(path)
