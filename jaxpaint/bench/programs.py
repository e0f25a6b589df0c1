"""This project's own programs at a model's shapes, for devices that need not be here: lowered from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxpaint.base.budgets import budgets
from jaxpaint.base.precision import Weights
from jaxpaint.base.target import compiling_for
from jaxpaint.engine.lanes import Lanes, columns_on
from jaxpaint.engine.layers import Apart, lie_apart
from jaxpaint.engine.model import Model, attention_implementation
from jaxpaint.engine.program import Program, enough_room, padded_size
from jaxpaint.engine.rows import Inputs
from jaxpaint.engine.walk import segment
from jaxpaint.engine.whole import start, static_logits
from jaxpaint.generation import cache, decode
from jaxpaint.generation.layout import Shape
from jaxpaint.models import abstract_model
from jaxpaint.models.family import Config
from jaxpaint.models.sharding import DATA, by_lane, lanes, parameter_sharding, with_kernels_on_host, with_lanes
from jaxpaint.plans.plan import Plan

What: TypeAlias = Literal["score", "static", "decode"]


@dataclass(frozen=True)
class Work:
    """What runs: the layers for `rows` rows of `length` tokens under a plan (`score`: the plan as data; `static`: the
    plan compiled in, with logits), or a stretch of decoding for `rows` texts with room for `length` tokens each; with
    the layers' kernels kept in `weights`.
    """

    what: What
    plan: Plan
    rows: int
    length: int
    weights: Weights = "float"
    offload: bool = False


def lowered(config: Config, work: Work, mesh: Mesh, platform: str, dtype: Any = jnp.bfloat16) -> Any:
    """A `jax.stages.Lowered` of the program that does the work, on the mesh's devices."""
    work.plan.validate(config.num_hidden_layers)
    with compiling_for(platform):
        make = {"score": _score, "static": _static, "decode": _decode}[work.what]
        return make(abstract(config, mesh, dtype, work.weights, work.offload), work)


def abstract(config: Config, mesh: Mesh, dtype: Any, weights: Weights = "float", offload: bool = False) -> Model:
    """A model of shapes, each with the place where its parameter lies."""
    implementation = attention_implementation(config, jnp.dtype(dtype), mesh)
    graphdef, state = nnx.split(abstract_model(config, dtype, implementation, weights))
    place = with_kernels_on_host(parameter_sharding(mesh)) if offload else parameter_sharding(mesh)

    def leaf(path: Any, x: Any) -> Any:
        names = (str(getattr(key, "key", getattr(key, "name", key))) for key in path)
        name = "/".join(names).removesuffix("/value").removesuffix("/.value")
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place(name, x.shape))

    state = jax.tree_util.tree_map_with_path(leaf, state)
    if lie_apart(config, dtype):
        state["blocks"] = jax.tree.map(_apart, state["blocks"])
    return Model(config, graphdef, state, mesh=mesh)


def _apart(stack: Any) -> Apart:
    whole = stack.sharding
    sharding = NamedSharding(whole.mesh, PartitionSpec(*whole.spec[1:]), memory_kind=whole.memory_kind)
    layer = jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype, sharding=sharding)
    return Apart((layer,) * stack.shape[0])


def _on(mesh: Mesh, tree: Any, rows: int | None = None) -> Any:
    """Shapes with places: those whose leading axis is the rows are spread over the data axis, others are everywhere."""

    def placed(x: Any) -> Any:
        spread = rows is not None and x.ndim > 1 and x.shape[0] == rows and rows % mesh.shape[DATA] == 0
        spec = PartitionSpec(DATA) if spread else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(placed, tree)


def _inputs(config: Config, work: Work) -> Inputs:
    return Inputs(_shape(jnp.int32, work.rows, work.length), _shape(jnp.int32, work.rows), None)


def _score(model: Model, work: Work) -> Any:
    first = partial(lambda graphdef, state, inputs: start(nnx.merge(graphdef, state), inputs), model.graphdef)
    x, context = _on(_mesh(model), jax.eval_shape(first, model.state, _inputs(model.config, work)), work.rows)
    instructions, length = _instructions(model, work), _on(_mesh(model), _shape(jnp.int32))
    return segment.lower(model.graphdef, model.state, instructions, length, enough_room([work.plan]), x, context)


def _instructions(model: Model, work: Work) -> Any:
    mesh, data = _mesh(model), jax.typeof(Program.of(work.plan).instructions)
    if lanes(mesh) == 1:
        return _on(mesh, data)
    shape = lanes(mesh), padded_size(len(columns_on(work.plan, mesh))), data.shape[1]
    return Lanes(jax.ShapeDtypeStruct(shape, data.dtype, sharding=by_lane(mesh)), mesh)  # type: ignore[arg-type]


def _static(model: Model, work: Work) -> Any:
    inputs = _on(_mesh(model), _inputs(model.config, work), work.rows)
    return static_logits.lower(model.graphdef, model.state, work.plan, inputs, with_lanes(model.mesh))


def _decode(model: Model, work: Work) -> Any:
    mesh, slots, rows = _mesh(model), work.plan.attentions, max(work.rows, budgets().least_rows)
    shape = Shape(slots, chunk=64, trunk=0, chunks=1, rows=rows, own=work.length // 2, made=-(-work.length // 2))
    number, each = _shape(jnp.int32), _shape(jnp.int32, rows)
    texts: Any = cache.Texts(*[each] * len(cache.Texts._fields))
    stop: Any = _shape(jnp.bool_, rows)
    steps: Any = number
    waiting: Any = _shape(jnp.bool_)
    stretch = decode.Stretch(steps, waiting, stop, number, each, each, texts)
    drawing = (_shape(jnp.float32), number, _shape(jnp.float32), _shape(jnp.uint32)), None
    stored, under_way = jax.eval_shape(lambda: cache.empty(model, shape, by_slot=False))
    keys_values = stored, (under_way.key, under_way.value)
    stored, (key, value) = _by_lane(mesh, keys_values) if lanes(mesh) > 1 else _on(mesh, keys_values)
    others = number, number, under_way._replace(key=(), value=()), stretch, _shape(jnp.int32, 2), drawing
    length, trunk, under_way, *others = _on(mesh, others)
    what = model.graphdef, model.state, model.layers, None, (_instructions(model, work), length)
    caches = trunk, stored, under_way._replace(key=key, value=value)
    return decode.decode.lower(*what, Program.of(work.plan).room, shape, *caches, *others, None, False)


def _by_lane(mesh: Mesh, tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=by_lane(mesh)), tree)


def _shape(dtype: Any, *sizes: int) -> Any:
    return jax.ShapeDtypeStruct(sizes, dtype)


def _mesh(model: Model) -> Mesh:
    assert model.mesh is not None
    return model.mesh
