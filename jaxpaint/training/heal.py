"""Healing: a short fine-tuning of what a plan runs, so that it says what the full model says.

The full model is the teacher and stays as it is; the plan over the same weights is the student. Adapters on the
kernels of the plan's blocks are trained, and merged at the end, or all of these blocks' weights; embeddings, final norm
and head are frozen, and what the plan does not run keeps its weights to the bit. A layer that stands in several places
of a plan is trained once, and stays one.

Pruned models are so repaired by LoRA in LLM-Pruner (arXiv 2305.11627) and in Gromov et al. (arXiv 2403.17887), there
on texts alone; here on the full model's distributions (`jaxpaint.training.distil`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from jaxpaint.base.errors import UserError
from jaxpaint.base.memory import require_memory
from jaxpaint.base.precision import require_float_weights
from jaxpaint.base.words import text_digest
from jaxpaint.engine.given import GivenTexts, each_of
from jaxpaint.engine.model import Model, from_parameters, plain_parameters
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.source import Source
from jaxpaint.models import abstract_model, checkpoint, with_layers
from jaxpaint.models.derived import save_derived
from jaxpaint.models.family import require_lm_head
from jaxpaint.models.tiled import without_tiles
from jaxpaint.plans.plan import Plan
from jaxpaint.results.search import Estimate
from jaxpaint.training.adapters import adapted_model, beside_kernels, first_adapters, merged_kernels
from jaxpaint.training.batches import Batch
from jaxpaint.training.checkpoints import TrainingCheckpoints
from jaxpaint.training.distil import compared, distillation_loss, final_states
from jaxpaint.training.memory import how_to_train
from jaxpaint.training.planned import Parameters, Planned, planned_decoder
from jaxpaint.training.rows import Rows, dealt, distilled_batches, drawn, tokens_of
from jaxpaint.training.settings import HealingSettings
from jaxpaint.training.trainer import CosineAdam, train
from jaxpaint.training.tune import Progress, explained, host_parameters, of_layers, own_layers


@partial(jax.tree_util.register_dataclass, data_fields=["planned", "frozen"], meta_fields=["rank", "temperature"])
@dataclass(frozen=True)
class Distillation:
    """The loss that the trainer asks for: of the trained parameters, adapters or all of the blocks' (`rank` 0)."""

    planned: Planned
    frozen: Parameters
    rank: int
    temperature: float

    def __call__(self, trained: Parameters, batch: Batch, key: Array | None = None) -> Float[Array, ""]:
        """The batch's weighted divergence, float32; there is nothing to draw with a key."""
        whole = beside_kernels(self.frozen, trained) if self.rank else {**self.frozen, **trained}
        graphdef, dtype = self.planned.graphdef, self.planned.dtype
        x = self.planned.states(nnx.merge(graphdef, whole), batch.inputs)
        head = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.astype(dtype), whole))
        teacher, student = (jnp.reshape(each, (-1, x.shape[-1])) for each in (batch.targets, x))
        return distillation_loss(head, teacher, student, jnp.ravel(batch.weights), self.temperature)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What held-out rows say of a plan: `divergence` from the full model in nats a token, mean of each row, and the
    `perplexity` of the rows' tokens."""

    divergence: Float[np.ndarray, " rows"]
    perplexity: float

    @property
    def mean(self) -> Estimate:
        """Of the divergence, over rows, with its standard error."""
        return estimate(self.divergence)


@dataclass(frozen=True, eq=False)
class Healed:
    """A model whose layers in `layers` were trained under `plan`, and what held-out rows say.

    `changed` are the trained parameters by path, [layers, ...] in the dtype that they are stored in; `model` is the
    whole model with these. `before` and `after` are of the plan, `full` of the full model. `source` is the store that
    the weights came from, None for a model made in memory; `record` what a store of the healed ones says of it.
    """

    model: Model
    plan: Plan
    layers: tuple[int, ...]
    changed: Mapping[str, np.ndarray]
    full: HeldOut
    before: HeldOut
    after: HeldOut
    source: Path | None
    record: Mapping[str, Any]

    def save(
        self, destination: str | Path, *, overwrite: bool = False, progress: checkpoint.Progress | None = None
    ) -> Path:
        """Writes the whole model as a store, as `jaxpaint convert` does, and returns its path.

        Raises UserError for a model that came from no store, or a destination that exists or cannot be written.
        """
        if self.source is None:
            raise UserError("this model was made in memory, so its tokenizer and config are not there to be stored")
        source = self.source
        place: dict[int | None, int] = {layer: number for number, layer in enumerate(self.layers)}

        def fill(path: str, layer: int | None, out: np.ndarray) -> None:
            if layer in place and path in self.changed:
                out[...] = self.changed[path][place[layer]]
            else:
                out[...] = checkpoint.read_tensor(source, path, layer)

        with checkpoint.verified(source) as manifest:
            return save_derived(
                source,
                manifest,
                destination,
                self.model.config,
                fill,
                healed=[*manifest.get("healed", []), dict(self.record)],
                overwrite=overwrite,
                progress=progress,
            )


def heal(
    model: Model,
    plan: Plan | str,
    texts: GivenTexts,
    settings: HealingSettings = HealingSettings(),  # noqa: B008
    *,
    checkpoints: TrainingCheckpoints | None = None,
    progress: Progress | None = None,
) -> Healed:
    """Trains the blocks that a plan runs to give the full model's distributions on calibration texts.

    `texts` are such, each then with the token that ends a sequence, or token ids; a share of them is held out and says
    what it was worth.
    The model is left as it is. From `checkpoints` a run that was ended goes on; `progress` is called with the number of
    steps done and the latest mean loss.

    Raises:
        PlanError: the plan names a layer that the model lacks.
        UserError: an encoder, integer weights, a model on several devices or partly on the host, too few texts, a
            memory that is too small, or a checkpoint that cannot be written or read.
        FloatingPointError: the loss is not finite.
    """
    require_healable(model)
    plan = model.checked_plan(plan)
    tokens = [tokens_of(model, "auto", [text])[0] if isinstance(text, str) else text for text in each_of(texts)]
    rows = dealt(model, tokens, settings.length, settings.held_out, settings.seed)
    teacher = final_states(model, model.full_plan, rows.held)
    full = _held_out(model, rows.held, teacher, teacher)
    before = _held_out(model, rows.held, teacher, final_states(model, plan, rows.held))
    layers = own_layers(plan)[1]
    trained = _trained(model, plan, rows, settings, checkpoints, progress)
    changed = _in_dtype(model, _changed(of_layers(host_parameters(model), layers), trained, settings.rank))
    healed = _with(model, layers, changed)
    after = _held_out(healed, rows.held, teacher, final_states(healed, plan, rows.held))
    record = {
        "plan": str(plan),
        "from": model.manifest.get("fingerprint"),
        "settings": {**asdict(settings), "learning_rate": settings.rate},
        "texts": {"train": rows.train_texts, "held_out": rows.held_texts, "digest": digest_of(tokens)},
        "divergence": {"before": before.mean.value, "after": after.mean.value},
        "perplexity": {"full": full.perplexity, "before": before.perplexity, "after": after.perplexity},
    }
    return Healed(healed, plan, layers, changed, full, before, after, model.store, record)


def distillation(
    model: Model, plan: Plan, settings: HealingSettings, *, remat: bool = False
) -> tuple[Distillation, Parameters]:
    """The loss under a plan, and the parameters before training: adapters, or all of the blocks' in float32.

    Both have the plan's own layers alone, in the order in which it first names them.
    """
    own, layers = own_layers(plan)
    config, rank = with_layers(model.config, layers), settings.rank
    if rank:
        frozen = of_layers(plain_parameters(model), layers)
        first = first_adapters(config, rank, settings.seed)
    else:
        frozen = {name: leaf for name, leaf in nnx.to_pure_dict(model.state).items() if name != "blocks"}
        frozen = without_tiles(frozen)
        first = {"blocks": of_layers(host_parameters(model), layers)["blocks"]}
    module = adapted_model(config, rank, model.dtype) if rank else None
    planned = planned_decoder(config, model.dtype, own, module=module, remat=remat)
    return Distillation(planned, frozen, rank, settings.temperature), first


def require_healable(model: Model | Source) -> None:
    """Raises UserError for a model that cannot be healed under any plan."""
    require_lm_head(model.config, "healing")
    require_float_weights(model.weights)
    if model.mesh is not None:
        raise UserError("healing is for one device; load the model without a mesh")
    if any(leaf.sharding is not None and leaf.sharding.memory_kind == "pinned_host" for leaf in _arrays(model)):
        raise UserError("healing needs the weights on the device; load the model without offload")


def digest_of(texts: Sequence[Sequence[int]]) -> str:
    """Tells texts, as token ids, from others."""
    return text_digest(str([list(map(int, text)) for text in texts]))


def trained_parameters(config: Any, plan: Plan, rank: int) -> int:
    """How many numbers are trained."""
    layers = own_layers(plan)[1]
    own = with_layers(config, layers)
    if rank:
        made: Any = jax.eval_shape(partial(first_adapters, own, rank), 0)
    else:
        made = nnx.to_pure_dict(nnx.state(abstract_model(own, jnp.float32)))["blocks"]
    return sum(leaf.size for leaf in jax.tree.leaves(made))


def states_bytes(config: Any, itemsize: int, rows: Inputs, drawn_rows: int) -> int:
    """Of the teacher's states of the rows that are trained on, which stay on the host."""
    return min(len(rows.tokens), drawn_rows) * rows.tokens.shape[1] * config.hidden_size * itemsize


def estimate(values: Float[np.ndarray, " rows"]) -> Estimate:
    """The mean, and its standard error by the values' spread; NaN of one value."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Estimate(float(np.mean(values)), spread / math.sqrt(len(values)))


def _trained(
    model: Model,
    plan: Plan,
    rows: Rows,
    settings: HealingSettings,
    checkpoints: TrainingCheckpoints | None,
    progress: Progress | None,
) -> Parameters:
    """The adapters after training, or the blocks' parameters, float32."""
    most = settings.steps * settings.batch_size
    needed = states_bytes(model.config, model.dtype.itemsize, rows.train, most)
    require_memory(needed, "the full model's states of the texts", "give fewer texts or steps, or a smaller --length")
    train_rows = Inputs(rows.train.tokens[:most], rows.train.lengths[:most], None)
    teacher = final_states(model, model.full_plan, train_rows)
    own, layers = own_layers(plan)
    count, size = trained_parameters(model.config, plan, settings.rank), model.dtype.itemsize
    # Of adapters the plan's own layers are copied; of all weights, the trained ones are counted.
    beside = sum(leaf.nbytes for leaf in _arrays(model)) * (2 if settings.rank else 1)
    own_config = with_layers(model.config, layers)
    how = how_to_train(own_config, own, size, settings.batch_size, settings.length, count, beside=beside)
    loss, first = distillation(model, plan, settings, remat=how.remat)
    order = drawn(len(train_rows.tokens), settings.batch_size, settings.steps, settings.seed)
    batches = distilled_batches(train_rows, teacher, *order, how.part_rows)
    warmup = int(settings.warmup * settings.steps)
    with explained(plan, count):
        return train(
            loss,
            first,
            batches,
            CosineAdam(settings.steps, settings.rate, warmup, settings.max_grad_norm),
            jax.random.key(settings.seed),
            checkpoints=checkpoints,
            progress=progress,
        )


def _changed(before: Parameters, trained: Parameters, rank: int) -> dict[str, np.ndarray]:
    """The parameters of the plan's layers that training replaces, float32, by path."""
    if rank:
        return merged_kernels(before, trained)
    return {path: np.asarray(leaf) for path, leaf in flatten_dict(trained, sep="/").items()}


def _in_dtype(model: Model, changed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """As they will be stored."""
    stored = jnp.dtype(model.manifest.get("dtype", model.dtype))
    return {path: leaf.astype(stored) for path, leaf in changed.items()}


def _with(model: Model, layers: tuple[int, ...], changed: Mapping[str, np.ndarray]) -> Model:
    """The model with these parameters in the place of its own."""
    parameters = flatten_dict(plain_parameters(model), sep="/")
    for path, leaf in changed.items():
        parameters[path] = parameters[path].at[np.array(layers)].set(jnp.asarray(leaf, model.dtype))
    healed = from_parameters(model.config, unflatten_dict(parameters, sep="/"))
    if model.store is not None:
        vars(healed)["tokenizer"] = model.tokenizer  # where the cached property keeps it
    return healed


def _held_out(model: Model, rows: Inputs, teacher: np.ndarray, student: np.ndarray) -> HeldOut:
    divergences, logprobs = compared(model, rows, teacher, student)
    place, lengths = np.arange(rows.tokens.shape[1]), rows.lengths[:, None]
    means = (divergences * (place < lengths)).sum(axis=1, dtype=np.float64) / rows.lengths
    predicted = place < lengths - 1
    loss = -logprobs[predicted].sum(dtype=np.float64) / predicted.sum()
    return HeldOut(means, math.exp(min(loss, 700.0)))


def _arrays(model: Model | Source) -> list[Any]:
    return jax.tree.leaves(model.state)
