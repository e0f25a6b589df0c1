"""Trains painter-16 on its language and writes it as a Hugging Face folder.

    python -m jaxpaint.painter.train --output painter-16 [--steps 6000] [--layers 16] [--hidden-size 96]

A killed run goes on from its last checkpoint. Beside the model the folder has the training loss (training.csv) and how
it was trained (training.json), which goes into the model card with losses on held-out texts and scores of the tasks:

    python -m jaxpaint.painter.card painter-16
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from functools import partial
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float
from safetensors.flax import save_file

from jaxpaint.base.arguments import ArgumentParser
from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.compilation import enable_persistent_cache, jit
from jaxpaint.base.errors import UserError
from jaxpaint.base.files import write_whole
from jaxpaint.engine import compiled as stack
from jaxpaint.engine.layers import layer_stack
from jaxpaint.models.decoder import Decoder
from jaxpaint.models.llama import NAMES, LlamaConfig
from jaxpaint.painter.batches import Batch, batches
from jaxpaint.painter.tokenizer import BOS, EOS, VOCABULARY, tokenizer
from jaxpaint.plans.plan import Plan
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.trainer import train

CONTEXT = 256
ROW = 128
HELD_OUT_SEED = 10_000
HELD_OUT_BATCHES = 8
# Far beyond any use of so small a language.
MOST = {"layers": 1000, "hidden_size": 8192, "heads": 8192, "steps": 10_000_000, "rows": 65_536}


@dataclass(frozen=True)
class Settings:
    """How painter-16 is trained. A step is `rows` rows of `ROW` tokens.

    Raises UserError, which names the option, for what cannot be trained with.
    """

    layers: int = 16
    hidden_size: int = 96
    heads: int = 4
    steps: int = 6000
    rows: int = 16
    seed: int = 0
    learning_rate: float = 0.01
    adam_learning_rate: float = 0.006

    def __post_init__(self) -> None:
        for name, most in MOST.items():
            _require(self, name, 1 <= getattr(self, name) <= most, f"1 to {most}")
        _require(self, "seed", 0 <= self.seed < 2**32, "0 to 2^32 - 1")
        for name in ("learning_rate", "adam_learning_rate"):
            _require(self, name, 0 < getattr(self, name) < float("inf"), "a number above 0")
        # Rotary embeddings turn pairs of a head's numbers.
        fits = self.hidden_size % (2 * self.heads) == 0
        _require(
            self, "hidden_size", fits, f"a multiple of {2 * self.heads}, two numbers for each of {self.heads} heads"
        )

    @property
    def config(self) -> LlamaConfig:
        """The architecture: Llama's."""
        return LlamaConfig(
            model_type="llama",
            vocab_size=len(VOCABULARY),
            hidden_size=self.hidden_size,
            intermediate_size=-(-self.hidden_size * 8 // 3 // 32) * 32,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            head_dim=self.hidden_size // self.heads,
            max_position_embeddings=CONTEXT,
            rms_norm_eps=1e-5,
            rope_theta=10000.0,
            tie_word_embeddings=True,
        )


def _require(settings: Settings, name: str, fits: bool, expected: str) -> None:
    if not fits:
        raise UserError(f"--{name.replace('_', '-')} is {getattr(settings, name)}; expected {expected}")


@dataclass(frozen=True)
class Muon:
    """Muon for the layers' matrices, Adam for the rest; the rates rise for a twentieth of the steps, then fall to 0."""

    steps: int
    learning_rate: float
    adam_learning_rate: float
    max_grad_norm: float = 1.0

    def transformation(self) -> optax.GradientTransformation:
        """The same as optax knows it."""
        numbers = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)  # axis 0 counts layers
        return optax.chain(
            optax.clip_by_global_norm(self.max_grad_norm),
            optax.contrib.muon(
                self._schedule(self.learning_rate),
                adam_learning_rate=self._schedule(self.adam_learning_rate),
                adam_b2=0.99,
                muon_weight_dimension_numbers=partial(jax.tree.map, lambda leaf: numbers if leaf.ndim == 3 else None),
            ),
        )

    def _schedule(self, peak: float) -> optax.Schedule:
        warm = max(1, self.steps // 20)
        return optax.join_schedules(
            [optax.linear_schedule(0.0, peak, warm), optax.linear_schedule(peak, 0.0, self.steps - warm)], [warm]
        )


@partial(jax.tree_util.register_dataclass, data_fields=[], meta_fields=["graphdef", "layers", "unroll"])
@dataclass(frozen=True)
class NextTokenLoss:
    """The mean loss of the next token, over those that `Batch.predicted` marks: what the trainer asks for."""

    graphdef: Any
    layers: int
    unroll: bool

    def __call__(self, parameters: Any, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        """The loss of a batch; `key` is not used, there is no dropout."""
        model = nnx.merge(self.graphdef, parameters)
        block, stacked = layer_stack(model)
        form, layers = stack.with_own_layers(Plan.of(range(self.layers)))
        x = stack.run_training(
            lambda own, x, context, _: block(own, x, context),
            stacked,
            form,
            layers,
            model.embed(batch.tokens, batch.positions),
            model.context(batch.positions, batch.visible_until),
            None,
            unroll=self.unroll,
        )
        logits = model.logits(x[:, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.tokens[:, 1:])
        predicted = batch.predicted[:, :-1]
        return (losses * predicted).sum() / predicted.sum()


def train_painter(
    settings: Settings, checkpoints: TrainingCheckpoints, progress: Callable[[int, float], None]
) -> tuple[NextTokenLoss, Any]:
    """`(loss, parameters)` after training; errors as `jaxpaint.training.trainer.train`."""
    graphdef, state = nnx.split(Decoder(settings.config, rngs=nnx.Rngs(settings.seed)))
    start = nnx.to_pure_dict(state)
    # Every layer begins as the identity, and the embeddings, which are the head too, small.
    start["embed"]["embedding"] *= 0.1 / start["embed"]["embedding"].std()
    for part, last in (("self_attn", "o_proj"), ("mlp", "down_proj")):
        start["blocks"][part][last]["kernel"] *= 0

    def steps(first: int) -> Iterator[tuple[Batch]]:
        return ((batch,) for batch in islice(batches(settings.seed, settings.rows, ROW), first, settings.steps))

    loss = NextTokenLoss(graphdef, settings.layers, on_cpu())
    optimizer = Muon(settings.steps, settings.learning_rate, settings.adam_learning_rate)
    key = jax.random.key(settings.seed)
    return loss, train(loss, start, steps, optimizer, key, checkpoints=checkpoints, progress=progress)


@jit()
def _loss(loss, parameters, batch):
    return loss(parameters, batch)


def held_out_loss(loss: NextTokenLoss, parameters: Any, rows: int) -> float:
    """The mean loss on texts of the held-out part, in nats a token."""
    drawn = islice(batches(HELD_OUT_SEED, rows, ROW, of_held_out=True), HELD_OUT_BATCHES)
    return float(np.mean([_loss(loss, parameters, batch) for batch in drawn]))


def write(folder: Path, settings: Settings, parameters: Any, seconds: float) -> None:
    """The model as a Hugging Face folder, its weights in bfloat16, and how it was trained (training.json)."""
    tensors = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(parameters):
        weight = NAMES.weight("/".join(key.key for key in path))
        for layer in range(settings.layers if weight.stacked else 1):
            tensor = leaf[layer] if weight.stacked else leaf
            tensors[weight.of_layer(layer)] = (tensor.T if weight.transposed else tensor).astype(jnp.bfloat16)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = settings.config
    raw = {
        "architectures": ["LlamaForCausalLM"],
        **{name: value for name, value in config.to_dict().items() if value is not None},
        "bos_token_id": VOCABULARY[BOS],
        "eos_token_id": VOCABULARY[EOS],
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(raw, indent=2) + "\n")
    tokenizer(CONTEXT).save_pretrained(folder)
    device = jax.devices()[0]
    on = f"{os.cpu_count()} CPU cores" if device.platform == "cpu" else device.device_kind
    how = {"settings": asdict(settings), "seconds": round(seconds), "on": on}
    (folder / "training.json").write_text(json.dumps(how, indent=2) + "\n")


class Log:
    """Keeps steps, losses and seconds in a CSV file and says them; a run that goes on goes on counting."""

    def __init__(self, file: Path, steps: int) -> None:
        self.file, self.steps, self.seconds = file, steps, 0.0
        self._rows = list(csv.reader(file.read_text().splitlines()))[1:] if file.exists() else []
        self._began = time.perf_counter()

    def __call__(self, done: int, loss: float) -> None:
        self._rows = [row for row in self._rows if int(row[0]) < done]  # what came after a checkpoint is done again
        if not self.seconds and self._rows:
            self._began -= float(self._rows[-1][2])
        self.seconds = time.perf_counter() - self._began
        self._rows.append([str(done), f"{loss:.4f}", f"{self.seconds:.0f}"])
        text = StringIO()
        csv.writer(text, lineterminator="\n").writerows([["step", "loss", "seconds"], *self._rows])
        write_whole(text.getvalue(), self.file)
        print(f"step {done} of {self.steps}: loss {loss:.4f}, {self.seconds:.0f} s", file=sys.stderr, flush=True)


def main() -> None:
    """The command."""
    parser = ArgumentParser(
        prog="python -m jaxpaint.painter.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    for setting in fields(Settings):
        name, default = f"--{setting.name.replace('_', '-')}", setting.default
        parser.add_argument(name, type=type(default), default=default, help="(default: %(default)s)")
    options = vars(parser.parse_args())
    output = options.pop("output")
    if output.exists() and not output.is_dir():
        parser.error(f"--output {output} is not a folder; give a new or an unfinished one")
    try:
        settings = Settings(**options)
    except UserError as error:
        parser.error(str(error))
    enable_persistent_cache()
    output.mkdir(parents=True, exist_ok=True)
    log = Log(output / "training.csv", settings.steps)
    kept = output / "checkpoints"
    loss, parameters = train_painter(settings, TrainingCheckpoints(kept), log)
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), parameters)
    write(output, settings, parameters, log.seconds)
    print(f"held-out loss {held_out_loss(loss, rounded, settings.rows):.4f} nats a token; {output}")
    shutil.rmtree(kept, ignore_errors=True)


if __name__ == "__main__":
    main()
