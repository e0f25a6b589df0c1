"""GLUE: fine-tuning speed against transformers on torch, and the time of a frozen study against plan by plan.

    python benchmarks/glue.py --model FOLDER --data rte:train=F --data rte:validation=F [--steps 20] [--plans 40]
    python benchmarks/glue.py --random bert-large --device gpu       (random weights at real shapes; training alone)

Training: both sides take the same batches with dropout, clipping and AdamW, from the same weights. transformers pads a
batch to its longest example; so does jaxpaint on a GPU, and on a CPU it takes a batch in parts of like length. On a
CPU in float32; on a GPU with float32 weights in bfloat16, torch under autocast. Frozen study (--model): jaxpaint's
scores of --plans plans at once, against the same plans one at a time, and against transformers on torch, whose encoder
runs anew in every epoch, for --peer-plans of them and one seed. Everything is compiled before it is timed. Rounds are
interleaved; figures are medians, ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SHAPES = {
    "bert-base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "bert-large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "bert-tiny": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2},
}
SEED = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder of a BERT with a pooler")
    parser.add_argument("--data", action="append", default=[], metavar="TASK:SPLIT=FILE", help="local data of a task")
    parser.add_argument("--limit", type=int, default=320, help="examples of the frozen study (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="training steps in a round (default: %(default)s)")
    parser.add_argument("--plans", type=int, default=40, help="of the frozen study; 0 for none (default: %(default)s)")
    parser.add_argument("--peer-plans", type=int, default=2, help="that torch runs, too (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--random", choices=SHAPES, help="random weights at these shapes in place of a model")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    if bool(options.model) == bool(options.random):
        parser.error("give --model FOLDER or --random SHAPE")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import torch

    from jaxpaint.base.machine import machine

    if jax.default_backend() != options.device:
        parser.error(f"--device {options.device}: JAX runs on {jax.default_backend()} here")
    cores = machine().cores
    torch.set_num_threads(cores)
    case = _random(options) if options.random else _real(options)
    figures: dict[str, Any] = {
        "machine": {"cores": cores, "device": jax.devices()[0].device_kind, "jax": jax.__version__},
        "rounds": options.rounds,
        "training": _training(case, options),
    }
    if options.model and options.plans:
        figures["frozen"] = _frozen(case, options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _real(options: argparse.Namespace) -> dict[str, Any]:
    """Our model, a maker of transformers', and the task's examples."""
    from transformers import AutoModelForSequenceClassification

    import jaxpaint as jp
    from jaxpaint.tasks.glue import glue_task, load_examples
    from jaxpaint.tasks.local_data import parse_data_option
    from jaxpaint.training.features import encode

    ((name, files),) = parse_data_option(options.data).items()
    task = glue_task(name)
    examples = {split: load_examples(task, split, files[split]) for split in ("train", "validation")}
    model = jp.load(options.model)
    return {
        "task": task,
        "model": model,
        "torch": lambda: AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=task.num_labels),
        "examples": examples,
        "encoded": encode(model, examples["train"], 128),
        "labels": examples["train"].labels,
        "num_labels": task.num_labels,
    }


def _random(options: argparse.Namespace) -> dict[str, Any]:
    """As `_real`, of random weights and of texts as long as pairs of sentences."""
    import numpy as np
    from transformers import BertConfig, BertForSequenceClassification

    from jaxpaint.engine.random_weights import random_model
    from jaxpaint.models import from_huggingface
    from jaxpaint.training.features import Encoded

    config = BertConfig(**SHAPES[options.random], num_labels=2)
    random = np.random.default_rng(SEED)
    lengths = random.integers(24, 128, options.steps * options.batch_size)
    tokens = tuple(random.integers(1, config.vocab_size, size).astype(np.int32) for size in lengths)
    return {
        "model": random_model(from_huggingface(config.to_dict())),
        "torch": lambda: BertForSequenceClassification(config),
        "encoded": Encoded(tokens, tuple(np.zeros_like(text) for text in tokens)),
        "labels": random.integers(0, 2, len(tokens)).astype(np.int32),
        "num_labels": 2,
    }


# --- Training ---------------------------------------------------------------------------------------------


def _training(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from jaxpaint.training.batches import labelled_batches, shuffled
    from jaxpaint.training.memory import PART_ROWS

    order, weights = shuffled(len(case["encoded"]), options.batch_size, 1, SEED)
    whole = (weights > 0).all(axis=1)
    chosen = (case["encoded"], case["labels"], order[whole][: options.steps], weights[whole][: options.steps])
    ours = list(labelled_batches(*chosen, PART_ROWS if options.device == "cpu" else None)(0))
    theirs = [batch for (batch,) in labelled_batches(*chosen)(0)]
    examples = options.batch_size * len(theirs)
    print(f"training: {len(theirs)} steps of {options.batch_size} examples")
    for name, batches in (("jaxpaint", [part for parts in ours for part in parts]), ("transformers", theirs)):
        tokens = sum(batch.inputs.tokens.size for batch in batches)
        print(f"{name}: {tokens / examples:.1f} tokens an example, {len(batches)} forward passes")
    peers = {"jaxpaint": _our_training(case, ours), "transformers": _torch_training(case, theirs, options.device)}
    seconds, losses = _rounds(peers, options.rounds)
    rates = {name: examples / statistics.median(values) for name, values in seconds.items()}
    ratio = _ratio(seconds)
    print(f"{'':<14}{'examples/s':>12}{'mean loss':>12}")
    for name, rate in rates.items():
        print(f"{name:<14}{rate:>12.1f}{losses[name]:>12.4f}")
    print(f"ratio {ratio:.2f}")
    return {"seconds": seconds, "examples_per_second": rates, "ratio": ratio, "losses": losses}


def _our_training(case: dict[str, Any], batches: list[Any]) -> Callable[[], float]:
    import jax

    from jaxpaint.training.planned import first_parameters, planned_classifier
    from jaxpaint.training.trainer import AdamW, train
    from jaxpaint.training.tune import GENERATOR

    model = case["model"]
    classifier = planned_classifier(model, model.full_plan)
    start = first_parameters(model, case["num_labels"], SEED)

    def run() -> float:
        seen: list[tuple[int, float]] = []
        done = train(
            *(classifier, start, lambda first: batches[first:], AdamW(len(batches), 2e-5)),
            jax.random.key(SEED, impl=GENERATOR),
            progress=lambda steps, loss: seen.append((steps, loss)),
        )
        jax.block_until_ready(done)
        ends = [0, *(steps for steps, _ in seen)]
        return sum((b - a) * loss for a, b, (_, loss) in zip(ends, ends[1:], seen, strict=False)) / len(batches)

    return run


def _torch_training(case: dict[str, Any], batches: list[Any], device: str) -> Callable[[], float]:
    import numpy as np
    import torch

    place = "cuda" if device == "gpu" else "cpu"
    network = case["torch"]().to(place).train()
    start = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = [
        {
            "input_ids": torch.tensor(tokens, dtype=torch.long, device=place),
            "attention_mask": torch.tensor(
                np.arange(tokens.shape[1]) < lengths[:, None], dtype=torch.long, device=place
            ),
            "token_type_ids": torch.tensor(types, dtype=torch.long, device=place),
            "labels": torch.tensor(
                labels, dtype=torch.float32 if labels.dtype == np.float32 else torch.long, device=place
            ),
        }
        for (tokens, lengths, types), _, labels, _ in batches
    ]

    def run() -> float:
        network.load_state_dict(start)
        optimizer = torch.optim.AdamW(network.parameters(), lr=2e-5, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(inputs))
        losses = []
        for batch in inputs:
            with torch.autocast(place, torch.bfloat16, enabled=device == "gpu"):
                loss = network(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).mean())

    return run


# --- A frozen study ---------------------------------------------------------------------------------------


def _frozen(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    from jaxpaint.plans.strategies import STRATEGIES, family
    from jaxpaint.results.store import Store
    from jaxpaint.studies.glue import run_frozen
    from jaxpaint.studies.glue_cells import GlueRequests
    from jaxpaint.tasks.glue import Examples
    from jaxpaint.training.settings import HEAD

    model, settings = case["model"], HEAD
    variants = {
        variant.plan: variant for name in STRATEGIES for variant in family(name, model.num_layers, seeds=range(10))
    }
    chosen = list(variants.values())[: options.plans]
    train, validation = (
        Examples(each.texts[: options.limit], each.labels[: options.limit]) for each in case["examples"].values()
    )

    requests = GlueRequests(case["task"], train, validation)

    def study(variants: list[Any]) -> None:
        with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "s.sqlite", create=True) as store:
            run_frozen(store, model, requests, variants, settings)

    def plan_by_plan() -> None:
        for variant in chosen:
            study([variant])

    series = [variant for variant in chosen if variant.plan.is_sequence]
    spread = series[:: max(1, len(series) // max(1, options.peer_plans))][: options.peer_plans]
    peers: dict[str, Callable[[], Any]] = {"all at once": lambda: study(chosen), "plan by plan": plan_by_plan}
    if spread:
        peers["torch, some"] = _torch_frozen(case, train, validation, [v.plan.sequence() for v in spread], options)
    print(f"frozen: {len(chosen)} plans, {len(train)} + {len(validation)} examples, {len(settings.seeds)} seeds")
    seconds, _ = _rounds(peers, options.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = statistics.median(b / a for a, b in zip(seconds["all at once"], seconds["plan by plan"], strict=True))
    figures: dict[str, Any] = {"plans": len(chosen), "seconds": seconds, "ratio": ratio}
    print(f"{'all at once':<14}{medians['all at once']:>10.1f} s")
    print(f"{'plan by plan':<14}{medians['plan by plan']:>10.1f} s, {ratio:.1f} times as long")
    if spread:
        cost = sum(variant.plan.cost for variant in spread)
        whole = medians["torch, some"] / cost * sum(variant.plan.cost for variant in chosen)
        figures |= {"torch_seconds": whole, "torch_ratio": whole / medians["all at once"]}
        print(
            f"{'transformers':<14}{whole:>10.1f} s for one seed, by layers run, from {len(spread)} plans: "
            f"{figures['torch_ratio']:.1f} times as long"
        )
    return figures


def _torch_frozen(
    case: dict[str, Any], train: Any, validation: Any, orders: list[tuple[int, ...]], options: argparse.Namespace
) -> Callable[[], None]:
    """The paper's way: all but the classifier frozen, three epochs of whole forward passes, then evaluation."""
    import torch

    from jaxpaint.training.batches import labelled_batches, shuffled
    from jaxpaint.training.features import encode

    network = case["torch"]()
    layers = list(network.bert.encoder.layer)
    for name, value in network.named_parameters():
        value.requires_grad = "classifier" in name
    batches = [
        list(labelled_batches(encode(case["model"], each, 128), each.labels, *shuffled(len(each), 32, epochs, SEED))(0))
        for each, epochs in ((train, 3), (validation, 1))
    ]

    def logits(batch: Any) -> Any:
        (tokens, lengths, types), *_ = batch
        mask = torch.arange(tokens.shape[1]) < torch.tensor(lengths)[:, None]
        return network(torch.tensor(tokens).long(), mask.long(), torch.tensor(types).long()).logits

    def run() -> None:
        for order in orders:
            network.bert.encoder.layer = torch.nn.ModuleList(layers[index] for index in order)
            optimizer = torch.optim.AdamW(network.classifier.parameters(), lr=3e-2, weight_decay=0.0)
            network.train()
            for (batch,) in batches[0]:
                found = logits(batch)
                if case["num_labels"] == 1:
                    losses = (found[:, 0] - torch.tensor(batch.targets)) ** 2
                else:
                    losses = torch.nn.functional.cross_entropy(
                        found, torch.tensor(batch.targets).long(), reduction="none"
                    )
                optimizer.zero_grad()
                (losses * torch.tensor(batch.weights)).sum().backward()
                torch.nn.utils.clip_grad_norm_(network.classifier.parameters(), 1.0)
                optimizer.step()
            network.eval()
            with torch.no_grad():
                for (batch,) in batches[1]:
                    logits(batch)

    return run


# --- Rounds -----------------------------------------------------------------------------------------------


def _rounds(peers: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every round but the first, which compiles, and what the last one returned."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    returned = {}
    for number in range(rounds + 1):
        for name, peer in peers.items():
            started = time.perf_counter()
            returned[name] = peer()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds, returned


def _ratio(seconds: dict[str, list[float]]) -> float:
    pairs = zip(seconds["jaxpaint"], seconds["transformers"], strict=True)
    return statistics.median(theirs / ours for ours, theirs in pairs)


if __name__ == "__main__":
    main()
