"""Fine-tuned dev scores against transformers' Trainer with the same hyper-parameters, seed by seed.

    python benchmarks/glue_trainer.py --model FOLDER --data rte:train=F --data rte:validation=F
        --data mrpc:train=F --data mrpc:validation=F [--seeds 0,1,2] [--json F]

Both sides fine-tune the whole model (max length 128, batches of 32, learning rate 2e-5 falling linearly to 0, 3 epochs,
no weight decay, gradients clipped to 1.0, dropout of the model's config) and are scored by one function. A seed
decides different random numbers on the two sides, so what is compared are means over seeds. Prints a table of every
run and one of means and standard deviations, in Markdown.

With --paired nothing is left to chance: no dropout, and our order of examples and first classifier on both sides. The
two then are one computation, and their logits are compared example by example.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder of a BERT with a pooler")
    parser.add_argument("--data", action="append", default=[], metavar="TASK:SPLIT=FILE", help="local data of a task")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="training examples, to see that it works (default: all)")
    parser.add_argument("--paired", action="store_true", help="the same order and classifier, and no dropout")
    parser.add_argument("--json", type=Path, help="write the figures here, after every run")
    options = parser.parse_args()
    from jaxpaint.tasks.glue import SCORE, glue_task, load_examples, task_metrics
    from jaxpaint.tasks.local_data import parse_data_option
    from jaxpaint.training.settings import ENCODER

    seeds = tuple(int(seed) for seed in options.seeds.split(","))
    settings = replace(ENCODER, epochs=options.epochs, seeds=seeds, dropout=0.0 if options.paired else None)
    runs: list[dict[str, Any]] = []
    for name, files in parse_data_option(options.data).items():
        task = glue_task(name)
        train = load_examples(task, "train", files["train"], options.limit)
        validation = load_examples(task, task.validation_split, files[task.validation_split])
        for seed in seeds:
            pair = []
            for side, run in (("jaxpaint", _ours), ("Trainer", _trainer)):
                started = time.perf_counter()
                logits = run(options.model, task, train, validation, seed, settings)
                pair.append(logits)
                seconds = time.perf_counter() - started
                predictions = logits[:, 0] if task.is_regression else logits.argmax(axis=-1)
                metrics = task_metrics(task, predictions, validation.labels)
                runs.append({"task": name, "seed": seed, "side": side, "seconds": seconds, **metrics})
                print(f"{name} seed {seed} {side}: {metrics[SCORE]:.4f} ({seconds:.0f} s)", flush=True)
                if options.json:
                    options.json.write_text(json.dumps(runs, indent=2))
            if options.paired:
                _print_pair(*pair)
    _print_runs(runs)
    _print_means(runs)


def _ours(model: Path, task: Any, train: Any, validation: Any, seed: int, settings: Any) -> Any:
    import jaxpaint as jp
    from jaxpaint.training.features import encode
    from jaxpaint.training.tune import tune_encoder

    loaded = jp.load(model)
    encoded, others = (encode(loaded, each, settings.max_length) for each in (train, validation))
    tuned = tune_encoder(loaded, loaded.full_plan, encoded, train.labels, task.num_labels, seed, settings)
    return tuned.logits(others)


def _trainer(model: Path, task: Any, train: Any, validation: Any, seed: int, settings: Any) -> Any:
    """As transformers' `run_glue.py`, rows padded to the longest of a batch; settings without dropout are a pair's."""
    import jax
    import numpy as np
    import torch
    from datasets import Dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from jaxpaint.training.batches import shuffled
    from jaxpaint.training.heads import initial_head

    paired = settings.dropout is not None
    tokenizer = AutoTokenizer.from_pretrained(model)

    def dataset(examples: Any) -> Dataset:
        columns = [list(column) for column in zip(*examples.texts, strict=True)]
        found = tokenizer(*columns, truncation=True, max_length=settings.max_length)
        return Dataset.from_dict({**found, "label": examples.labels.tolist()})

    set_seed(seed)  # the classifier's first weights
    network = AutoModelForSequenceClassification.from_pretrained(model, num_labels=task.num_labels)
    if paired:
        for module in network.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = settings.dropout
        head = initial_head(seed, network.config.hidden_size, task.num_labels)
        with torch.no_grad():
            network.classifier.weight.copy_(torch.tensor(np.asarray(head["kernel"]).T))
            network.classifier.bias.copy_(torch.tensor(np.asarray(head["bias"])))
    order, weights = shuffled(len(train), settings.batch_size, settings.epochs, seed)
    epochs = iter(order[weights > 0].reshape(settings.epochs, len(train)).tolist())

    class Ordered(torch.utils.data.Sampler):
        def __iter__(self):
            return iter(next(epochs))

        def __len__(self):
            return len(train)

    class OurOrder(Trainer):
        def _get_train_sampler(self, *_):
            return Ordered()

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.epochs,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            seed=seed,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=jax.default_backend() == "cpu",
        )
        trainer = (OurOrder if paired else Trainer)(
            network, arguments, train_dataset=dataset(train), data_collator=DataCollatorWithPadding(tokenizer)
        )
        trainer.train()
        return trainer.predict(dataset(validation)).predictions


def _print_pair(ours: Any, theirs: Any) -> None:
    differing = int((ours.argmax(axis=-1) != theirs.argmax(axis=-1)).sum())
    print(
        f"logits within {abs(ours - theirs).max():.1e} (spread {theirs.std():.2f}); "
        f"{differing} of {len(ours)} examples classified differently",
        flush=True,
    )


def _print_runs(runs: list[dict[str, Any]]) -> None:
    seeds = sorted({run["seed"] for run in runs})
    print("\n| task | | " + " | ".join(f"seed {seed}" for seed in seeds) + " |")
    print("|---" * (len(seeds) + 2) + "|")
    for task, side in dict.fromkeys((run["task"], run["side"]) for run in runs):
        scores = [f"{score:.4f}" for score in _scores(runs, task, side)]
        print(f"| {task} | {side} | " + " | ".join(scores) + " |")


def _print_means(runs: list[dict[str, Any]]) -> None:
    print("\n| task | jaxpaint | Trainer | difference | within one deviation of Trainer |")
    print("|---|---|---|---|---|")
    for task in dict.fromkeys(run["task"] for run in runs):
        ours, theirs = (_scores(runs, task, side) for side in ("jaxpaint", "Trainer"))
        deviations = [statistics.stdev(scores) if len(scores) > 1 else float("nan") for scores in (ours, theirs)]
        means = [statistics.mean(scores) for scores in (ours, theirs)]
        shown = [f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in zip(means, deviations, strict=True)]
        difference = means[0] - means[1]
        within = "yes" if abs(difference) <= deviations[1] else "no"
        print(f"| {task} | {shown[0]} | {shown[1]} | {difference:+.4f} | {within} |")


def _scores(runs: list[dict[str, Any]], task: str, side: str) -> list[float]:
    return [run["score"] for run in runs if (run["task"], run["side"]) == (task, side)]


if __name__ == "__main__":
    main()
