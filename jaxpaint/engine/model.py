"""A converted model in memory, ready to run under any layer plan."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxpaint import tiles
from jaxpaint.base.budgets import on_cpu
from jaxpaint.base.compilation import enable_persistent_cache
from jaxpaint.base.errors import UserError
from jaxpaint.base.machine import instructions, multiplies_bfloat16
from jaxpaint.base.memory import memory_left
from jaxpaint.base.precision import Weights, checked_weights, described
from jaxpaint.base.target import platform
from jaxpaint.base.words import quantity
from jaxpaint.engine import layers as stack
from jaxpaint.engine import whole
from jaxpaint.engine.given import Given, inputs_of
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.layers import LARGE_LAYER_BYTES, apart, are_apart, are_offloaded, layer_bytes, lie_apart
from jaxpaint.engine.program import enough_room
from jaxpaint.engine.rows import Inputs
from jaxpaint.models import abstract_model, abstract_parameters
from jaxpaint.models.decoder import Implementation
from jaxpaint.models.family import Config, require_lm_head, require_texts
from jaxpaint.models.kernel import Kernel
from jaxpaint.models.manifest import source_name
from jaxpaint.models.quantised import weights_of
from jaxpaint.models.sharding import lanes, parameter_sharding, with_kernels_on_host, with_lanes
from jaxpaint.models.tiled import are_tiled, stored_tiles, with_tiles, without_tiles
from jaxpaint.models.transposed import with_transposed_kernels
from jaxpaint.plans.names import NamedLayersError, Names
from jaxpaint.plans.plan import Plan

if TYPE_CHECKING:
    from jaxpaint.engine.interventions import Intervention
    from jaxpaint.engine.run import Kept, Run
    from jaxpaint.models.image_processor import ImageProcessor

DType: TypeAlias = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Model:
    """Architecture (`graphdef`, static) and parameters (`state`, a pytree), as `flax.nnx.split` gives them.

    Layers are stacked in `state["blocks"]`, or apart where they are large and a GPU's (`jaxpaint.engine.layers`).
    Where a processor's tiles multiply, kernels lie as these read them (`jaxpaint.models.tiled`); `plain_parameters`
    gives all as `jaxpaint.models.checkpoint.restore` does.
    `store` is the converted store the parameters came from, None for a model made in memory; `mesh` the devices they
    lie on, None for one device.
    """

    config: Config
    graphdef: Any
    state: Any
    store: Path | None = None
    mesh: Mesh | None = None

    def __repr__(self) -> str:
        """In one line: its name, family, sizes, what it is computed in and where."""
        where = platform() if self.mesh is None else f"{self.mesh.size} x {platform()}"
        return (
            f"Model({self.name!r}, {self.config.model_type}, {self.num_layers} layers, hidden size "
            f"{self.config.hidden_size}, {quantity(self.parameters)} parameters, {self.computed_in}, {where})"
        )

    @property
    def name(self) -> str:
        """What it was converted from: a hub id, or a folder's name; "in memory" for a model made there."""
        return str(source_name(self.manifest) or "in memory").rstrip("/").rpartition("/")[2]

    @property
    def parameters(self) -> int:
        """How many numbers the model has learned."""
        return sum(leaf.size for leaf in abstract_parameters(self.config, self.dtype).values())

    @property
    def num_layers(self) -> int:
        return self.config.num_hidden_layers

    @property
    def dtype(self) -> jnp.dtype:
        """What matrix products are computed in, and parameters kept in that are not quantised."""
        return _dtype(self.state)

    @property
    def weights(self) -> Weights:
        """What the layers' kernels are kept in."""
        return weights_of(self.state)

    @property
    def computed_in(self) -> str:
        """What results tell models of equal parameters apart by."""
        return described(self.dtype, self.weights)

    @property
    def full_plan(self) -> Plan:
        """Every layer once, in order."""
        return Plan.of(range(self.num_layers))

    @cached_property
    def manifest(self) -> Mapping[str, Any]:
        """Where the parameters came from; empty for a model made in memory."""
        from jaxpaint.models.checkpoint import read_manifest

        return read_manifest(self.store) if self.store else {}

    @cached_property
    def layer_names(self) -> Names:
        """Of a composed model, by the names of those that it has layers of, their layers' numbers in it; else empty."""
        from convert.layer_names import layer_names

        return layer_names(self.manifest)

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's Hugging Face tokenizer. Raises UserError where the checkpoint brought none."""
        from jaxpaint.models.tokenizer import load_tokenizer

        require_texts(self.config, "this")
        if self.store is None:
            raise UserError("this model was made in memory and has no tokenizer; pass token ids")
        return load_tokenizer(self.store)

    @cached_property
    def layers(self) -> Any | None:
        """The layers' parameters apart, sharing memory with `state`; None where there is a stack alone.

        A CPU copies a layer that it takes out of the stack, which costs a decoding step more than its arithmetic.
        """
        if are_apart(self.state["blocks"]):
            return self.state["blocks"]
        if self.mesh is not None or not on_cpu() or are_offloaded(self.state["blocks"]):
            return None
        # NumPy has no packed int4 to share memory with.
        stacked = jax.tree.map(lambda leaf: leaf if leaf.dtype == jnp.int4 else np.asarray(leaf), self.state["blocks"])
        return jax.tree.map(lambda leaf: stack.Apart(tuple(map(jax.device_put, leaf))), stacked)

    @cached_property
    def transposed(self) -> tuple[Any, Any] | None:
        """`(graphdef, layers)` with the layers' kernels as [out, in], for decoding; None where it is no faster.

        A copy of the kernels, where memory has room for it; `jaxpaint.models.transposed` says what it is for.
        """
        if not on_cpu() or self.layers is None or self.weights != "float" or are_tiled(self.state["blocks"]):
            return None
        each, left = layer_bytes(self.state["blocks"]), memory_left()
        wide = multiplies_bfloat16() if self.dtype == jnp.bfloat16 else "avx512f" in instructions()
        pays = wide or (self.dtype == jnp.float32 and each > LARGE_LAYER_BYTES)
        if not pays or left is None or 2 * each * self.num_layers > left:
            return None
        return with_transposed_kernels(self.graphdef, self.state), stack.with_transposed_kernels(self.layers)

    def checked_plan(self, plan: Plan | str | None) -> Plan:
        """The plan, or that of a text, or the full plan for None. Raises PlanError for a layer that the model lacks."""
        if isinstance(plan, str):
            text = plan
            try:
                plan = Plan.parse(text)
            except NamedLayersError:
                plan = Plan.parse(text, self.layer_names)
        if plan is not None and not isinstance(plan, Plan):
            raise UserError(f"plan is {plan!r}; give a jaxpaint.Plan or its text, such as '0-8 {{9-22}} 23-31'")
        return (plan or self.full_plan).validate(self.num_layers)

    def checked_plans(self, plans: Plan | str | Iterable[Plan | str | None] | None) -> list[Plan]:
        """One plan or several, each as `checked_plan`."""
        several = plans if isinstance(plans, Iterable) and not isinstance(plans, str) else [plans]
        return [self.checked_plan(plan) for plan in several]

    @cached_property
    def image_processor(self) -> ImageProcessor:
        """How the checkpoint's images are read. Raises UserError where it brought no processor that is handled."""
        from jaxpaint.models.image_processor import load_image_processor

        if self.store is None:
            raise UserError("this model was made in memory and has no image processor; pass pixel values")
        return load_image_processor(self.store, self.config)

    def inputs(self, given: Given, lengths: ArrayLike | None = None, token_types: ArrayLike | None = None) -> Inputs:
        """Texts, token ids or images as checked rows (`jaxpaint.engine.given`)."""
        return inputs_of(self, self.config, given, lengths, token_types)

    def logits(
        self,
        tokens: Given,
        plan: Plan | str | None = None,
        lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        *,
        static: bool = False,
    ) -> Float[Array, "B S V"]:
        """Logits in float32 at every position under `plan` (default: all layers in order).

        They are of the next token, or for an encoder, through its masked-LM head, of the token itself. `tokens` are
        [B, S] integers, a text, or several; `plan` is a Plan or its text. `lengths` [B] marks right-padding: positions
        at or beyond a row's length are not attended to, and their own logits mean nothing. `token_types` [B, S] tell
        the texts of a pair apart (BERT; default: all 0).
        Of a shape one executable serves every series, one every plan with groups of layers, one the rest; with `static`
        the plan itself is compiled, and on accelerators the layers of a small group run at once (`vmap`).

        Raises:
            PlanError: the plan names a layer that the model lacks.
            UserError: tokens that are not [batch, seq] integers within the vocabulary, lengths or token types that do
                not fit, an encoder without a masked-LM head, or a decoder without a head.
        """
        self.require_logits()
        plan = self.checked_plan(plan)
        inputs = self.inputs(tokens, lengths, token_types)
        if static:
            return whole.static_logits(self.graphdef, self.state, plan, inputs, with_lanes(self.mesh))
        return whole.logits(self.graphdef, self.state, *as_data(plan, self.mesh), enough_room([plan]), inputs)

    def require_logits(self) -> None:
        """Raises UserError for a model whose states say nothing about tokens."""
        if self.config.capabilities.decoder:
            require_lm_head(self.config, "what comes next")
        elif self.config.capabilities.images:
            raise UserError(
                f"this model ({self.config.model_type}) sees images and says nothing of tokens; take its class_logits, "
                "pooled or hidden_states"
            )
        elif not self.config.capabilities.masked_lm_head:
            raise UserError("this checkpoint has no masked-LM head, so it has no logits; take its hidden_states")

    def logits_of(self, states: Float[Array, "B S D"]) -> Float[Array, "B S V"]:
        """Logits in float32 of hidden states taken before the final norm, such as `hidden_states` has."""
        self.require_logits()
        return whole.logits_of(self.graphdef, self.state, states)

    def run(
        self,
        tokens: Given,
        plan: Plan | str | None = None,
        *interventions: Intervention,
        lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
        keep: Sequence[Kept] = (),
    ) -> Run:
        """A run to look into (`jaxpaint.engine.run.Run`): its states, attention, logit lens, attribution.

        Nothing is computed but what is asked of it; `keep` names what is to be there at once, from one pass. One
        executable for each kind of step serves every plan, and every intervention (`jaxpaint.engine.interventions`).
        Other arguments and errors as `logits`; UserError for interventions that do not fit.
        """
        from jaxpaint.engine.run import run_of

        inputs = self.inputs(tokens, lengths, token_types)
        return run_of(
            self, inputs, self.checked_plan(plan).of_whole_layers("a run that is looked into"), interventions, keep
        )

    def pooled(
        self,
        tokens: Given,
        plan: Plan | str | None = None,
        lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
    ) -> Float[Array, "B D"]:
        """What a classifier reads of an encoder: its first token's last state, or all tokens' mean, through the pooler.

        Arguments and errors as `logits`; UserError for a model without a pooler.
        """
        if not self.config.capabilities.pooler:
            raise UserError(f"this {self.config.model_type} checkpoint has no pooler; take its hidden_states")
        plan = self.checked_plan(plan)
        inputs = self.inputs(tokens, lengths, token_types)
        return whole.pooled(self.graphdef, self.state, *as_data(plan, self.mesh), enough_room([plan]), inputs)

    def class_logits(self, images: Given, plan: Plan | str | None = None) -> Float[Array, "B labels"]:
        """Logits in float32 of the classes of a model of images, `config.labels`, by the checkpoint's own head.

        `images` are files, or pixel values [B, channels, height, width]. Raises UserError for a model without such a
        head, and as `logits`.
        """
        self.require_classes()
        return self.own_classes(self.pooled(images, plan))

    def require_classes(self) -> None:
        """Raises UserError for a model without a head of its own for classes of images."""
        if not self.config.capabilities.images:
            raise UserError(f"a {self.config.model_type} model sees no images; labels' heads of texts are not kept")
        if not getattr(self.config, "labels", ()):
            raise UserError("this checkpoint was saved without a classifier: it has no class_logits; take pooled")

    def own_classes(self, pooled: ArrayLike) -> Float[Array, "B labels"]:
        """Logits in float32 of what `pooled` gives, by the checkpoint's own head."""
        return whole.class_logits(self.graphdef, self.state, jnp.asarray(pooled, self.dtype))

    def hidden_states(
        self,
        tokens: Given,
        plan: Plan | str | None = None,
        lengths: ArrayLike | None = None,
        token_types: ArrayLike | None = None,
    ) -> Float[Array, "states B S D"]:
        """The hidden states along the plan: the embeddings, then one after each step, before the final norm.

        A step is a layer or a whole parallel group of the plan's series, repeats unrolled; the full plan has
        `num_layers + 1` states (the paper's Figure 3). Compiled per plan. Arguments and errors as `logits`.
        """
        plan = self.checked_plan(plan)
        inputs = self.inputs(tokens, lengths, token_types)
        return whole.hidden_states(self.graphdef, self.state, plan, inputs, with_lanes(self.mesh))


def load(
    model: str | Path,
    *,
    dtype: DType = "auto",
    weights: Weights = "float",
    revision: str | None = None,
    adapter: str | Path | None = None,
    mesh: Mesh | None = None,
    offload: bool = False,
) -> Model:
    """Loads a store, or a Hugging Face or Meta folder, GGUF file or hub id (converted into the cache on first use).

    `dtype` "auto" is float32 on CPU and bfloat16 on accelerators. With `weights` "int8" or "int4" the layers' kernels
    are kept so (`jaxpaint.models.quantised`), and all else in `dtype`. `mesh`
    (`jaxpaint.models.sharding.device_mesh`) spreads the parameters over several devices, each reading its own part.
    With `offload` the layers' kernels stay in the host's memory, from which each layer's come to the device as it runs:
    for models larger than the device. `adapter` is the folder of a LoRA adapter of peft, merged into the weights.

    Raises:
        UserError: no such model, a damaged one, or one of a family that is not known.
    """
    checked_weights(weights)
    if not model or not isinstance(model, str | os.PathLike):
        raise UserError(f"model is {model!r}; give a hub id, or the name of a folder or file")
    from convert import store_for
    from jaxpaint.models import checkpoint

    store = store_for(model, revision=revision, adapter=adapter)
    enable_persistent_cache()
    chosen = resolve_dtype(dtype)
    config, manifest = checkpoint.read_config(store), checkpoint.read_manifest(store)
    sharding = parameter_sharding(mesh) if mesh else None
    if offload:
        one = jnp.zeros(()).sharding
        sharding = with_kernels_on_host(sharding or (lambda path, shape: one))
    keep = stack.known_on_host if offload else stack.apart_blocks if lie_apart(config, chosen) else None
    how: Any = {"dtype": chosen, "weights": weights, "sharding": sharding, "keep": keep}
    if weights == "float" and mesh is None and on_cpu() and not offload and keep is None:
        how |= stored_tiles(abstract_model(config, chosen), manifest["tensors"])
    parameters = checkpoint.restore(store, **how)
    loaded = from_parameters(config, parameters, store=store, mesh=mesh)
    if loaded.manifest != manifest:  # read once more, for good
        raise UserError(f"the store {store} was replaced while it was loaded; try again")
    return loaded


def from_parameters(
    config: Config, parameters: dict[str, Any], *, store: Path | None = None, mesh: Mesh | None = None
) -> Model:
    """A model of nested parameters as `jaxpaint.models.checkpoint.restore` returns them."""
    dtype, weights = _dtype(parameters), weights_of(parameters)
    if lie_apart(config, dtype) and not are_offloaded(parameters["blocks"]):
        parameters = {**parameters, "blocks": apart(parameters["blocks"])}
    model = abstract_model(config, dtype, attention_implementation(config, dtype, mesh), weights)
    if mesh is None and on_cpu() and not are_apart(parameters["blocks"]) and not are_offloaded(parameters["blocks"]):
        parameters = with_tiles(model, parameters)
    graphdef, state = nnx.split(model)
    nnx.replace_by_pure_dict(state, parameters)
    return Model(config, graphdef, state, store, mesh)


def plain_parameters(model: Model) -> dict[str, Any]:
    """A model's parameters as nested dictionaries: layers in stacks, and no kernels as tiles read them."""
    return without_tiles(stack.together(nnx.to_pure_dict(model.state)))


def _dtype(parameters: Any) -> jnp.dtype:
    return jax.tree.leaves(parameters["embed"])[0].dtype  # of kernels it may be integers


def resolve_dtype(dtype: DType) -> jnp.dtype:
    """float32 on CPU and bfloat16 on accelerators, unless one is named."""
    if dtype == "auto":
        dtype = "float32" if on_cpu() else "bfloat16"
    if dtype not in ("float32", "bfloat16"):
        raise UserError(f"dtype {dtype!r} is not one of auto, float32, bfloat16")
    return jnp.dtype(dtype)


def attention_implementation(config: Config, dtype: jnp.dtype, mesh: Mesh | None = None) -> Implementation:
    """A kernel where one serves: this project's on TPUs and CPUs, cuDNN's on NVIDIA GPUs; these in bfloat16."""
    if on_cpu():
        return "vectors" if mesh is None and config.head_dim % tiles.HEADS == 0 and tiles.are_here() else "matmul"
    of_tpus = dtype == jnp.bfloat16 and platform() == "tpu" and config.capabilities.decoder
    # Over lanes it would be one mapped function in another.
    if of_tpus and lanes(mesh) == 1 and Kernel.serves(config.head_dim, config.num_key_value_heads, mesh):
        return Kernel(mesh)
    fits = dtype == jnp.bfloat16 and config.head_dim % 8 == 0 and config.head_dim <= 128
    fits = fits and config.capabilities.flash_attention
    return "cudnn" if fits and _has_flash_attention() else "einsum"


def _has_flash_attention() -> bool:
    device = jax.devices()[0]
    nvidia = device.platform == "gpu" and "cuda" in device.client.platform_version.lower()
    return platform() == "gpu" and nvidia and float(device.compute_capability) >= 8.0
