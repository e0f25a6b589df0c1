"""What a family of models declares: how its config.json is read, how its layers compute, its weights' names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from jaxpaint.base.errors import UserError
from jaxpaint.models.fields import require_bounds
from jaxpaint.models.scalings import Scaling


@dataclass(frozen=True)
class Capabilities:
    """What can be asked of a model; `token_types` is how many it tells apart."""

    decoder: bool = True
    lm_head: bool = True
    """Of a decoder: whether its states become logits of the next token."""
    pooler: bool = False
    new_pooler: bool = False
    """Whether its classifiers are trained with a new pooler where there is none, as transformers has it."""
    masked_lm_head: bool = False
    token_types: int = 0
    flash_attention: bool = True
    """Whether cuDNN's attention computes the same: it knows no caps on scores."""
    images: bool = False
    """Whether it sees images, in the place of texts."""


@dataclass(frozen=True)
class Sizes:
    """The fields that every family's config begins with, in the order they are stored in."""

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int

    def __post_init__(self) -> None:
        """However it was made: raises ConfigError for a number that no model has."""
        require_bounds(vars(self))
        scaling = getattr(self, "rope_scaling", None)
        if scaling is not None:
            require_bounds(vars(scaling))

    @property
    def capabilities(self) -> Capabilities:
        """A decoder's, where the family does not say otherwise."""
        return Capabilities(lm_head=getattr(self, "has_lm_head", True))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `jaxpaint.models.from_dict` reads them back. A head is told where it lacks."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name != "has_lm_head" or not value}


@dataclass(frozen=True)
class WholeHeads(Sizes):
    """Of models with as many key/value heads as query heads, which share `hidden_size`."""

    @property
    def num_key_value_heads(self) -> int:
        return self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@runtime_checkable
class Config(Protocol):
    """What every family's frozen config tells, whatever else it holds. Lengths are in tokens."""

    @property
    def model_type(self) -> str: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int: ...
    @property
    def intermediate_size(self) -> int: ...
    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def max_position_embeddings(self) -> int: ...
    @property
    def hidden_act(self) -> str: ...
    @property
    def tie_word_embeddings(self) -> bool: ...
    @property
    def capabilities(self) -> Capabilities: ...
    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `jaxpaint.models.from_dict` reads them back."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class Rotary:
    """How a layer's rotary positions turn: their base, and how the frequencies are rescaled."""

    theta: float
    scaling: Scaling | None = None


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in the place of a feed-forward: `chosen` of `count` for each token, `width` numbers inside.

    `normalised`, the weights of the chosen ones add up to 1. `shared_width` is that of an expert for all tokens.
    """

    count: int
    chosen: int
    width: int
    normalised: bool
    shared_width: int | None = None

    @property
    def inside(self) -> int:
        """Numbers inside for a token, all experts that it goes through together."""
        return self.chosen * self.width + (self.shared_width or 0)


@dataclass(frozen=True)
class Traits:
    """How a decoder's layers compute, or a pre-norm encoder's; follows from its config and is never stored.

    Names are those of modules within a layer, as stored: transformers' own. `norms` are those before and after
    attention, before and after the feed-forward, None where there is none. Of two `mlp` names where it is gated the
    first is gate and up in one product. `windows` are the layers' sliding windows in tokens, None for all before; an
    encoder's reach as far to both sides.
    """

    norm: Literal["rms", "layer"]
    epsilon: float
    windows: tuple[int | None, ...]
    attention: str = "self_attn"
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    query_key_value: Literal["apart", "joined by head", "joined in blocks"] = "apart"
    """Joined by head, each key and its value come after the queries that read them."""
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    gated: bool = True
    norms: tuple[str | None, str | None, str | None, str | None] = (
        *("input_layernorm", None),
        *("post_attention_layernorm", None),
    )
    norm_offset: bool = False
    """The norms' scales are stored less 1."""
    norm_bias: bool = True
    """Whether layer norms have one."""
    residuals: Literal["in series", "side by side"] = "in series"
    input_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    query_key_norm: Literal["head", "projection"] | None = None
    """What queries and keys are normed over, before they turn."""
    rotary_dim: int | None = None
    """How many of a head's numbers turn with the position; None where positions are learned and added at the start."""
    rotary: tuple[Rotary, ...] | None = None
    """How they turn in each layer; None where it is by the config's `rope_theta` and `rope_scaling` in all of them."""
    attention_scale: float | None = None
    """What scores are multiplied with; None for one over the root of a head's size."""
    attention_cap: float | None = None
    """Scores s become cap * tanh(s / cap)."""
    logit_cap: float | None = None
    embedding_scale: float | None = None
    experts: Experts | None = None


@dataclass(frozen=True)
class Weight:
    """A parameter of ours and its Hugging Face name, with `{layer}` where it is stacked, `{expert}` where experts are.

    Kernels are [in, out] here and, where `transposed`, [out, in] there. Layers before `first` have none: theirs here
    are zeros that nothing reads.
    """

    path: str
    name: str
    transposed: bool
    first: int = 0

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.name

    @property
    def of_experts(self) -> bool:
        return "{expert}" in self.name

    def of_layer(self, layer: int | None, expert: int | None = None) -> str:
        return self.name.format(layer=layer, expert=expert)

    def parts(self, layer: int | None, shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], str]]:
        """Where Hugging Face tensors lie in one layer, of this shape, of our parameter, and their names."""
        if layer is not None and layer < self.first:
            return
        if self.of_experts:
            yield from (((expert,), self.of_layer(layer, expert)) for expert in range(shape[0]))
        else:
            yield (), self.of_layer(layer)

    def shape(self, stacked: tuple[int, ...]) -> tuple[int, ...]:
        """The Hugging Face tensor's shape, for the shape of our stacked one."""
        shape = stacked[self.stacked + self.of_experts :]
        return shape[::-1] if self.transposed else shape


@dataclass(frozen=True)
class Names:
    """A family's names.

    `weight` gives the entry of our path. The names of the base model begin with `base` and a dot, where they are not
    saved without it, and then with one of `modules`; beside it we read what begins with one of `kept`, and every other
    head is left out, and so is what ends as one of `unread`. `buffers` are endings of names that hold no weights.
    `twice` is a second name of some weights, beside that of the head's where it is tied to the embedding. `canonical`
    makes one spelling of several, and `adapt` gives the configuration of a checkpoint with these (canonical) names.
    """

    weight: Callable[[str], Weight]
    base: str
    modules: tuple[str, ...]
    embedding: str
    head: str
    kept: str | tuple[str, ...]
    buffers: tuple[str, ...]
    twice: tuple[tuple[str, str], ...] = ()
    unread: tuple[str, ...] = ()
    canonical: Callable[[str], str] = str
    adapt: Callable[[Any, Collection[str]], Any] = lambda config, names: config

    def expected(self, shapes: Mapping[str, tuple[int, ...]], num_layers: int) -> dict[str, tuple[int, ...]]:
        """Every Hugging Face name that a checkpoint with our parameters' shapes has, with its shape."""
        found: dict[str, tuple[int, ...]] = {}
        for path, shape in shapes.items():
            entry = self.weight(path)
            for layer in range(num_layers if entry.stacked else 1):
                found.update((name, entry.shape(shape)) for _, name in entry.parts(layer, shape[entry.stacked :]))
        return found


# Tables of rotary angles that older checkpoints hold, in each layer or once.
ROTARY_BUFFERS = tuple(f"rotary_emb.{name}" for name in ("inv_freq", "original_inv_freq", "cos_cached", "sin_cached"))


def decoder_names(
    base: str,
    embedding: str,
    norm: str,
    head: str = "lm_head",
    buffers: tuple[str, ...] = (),
    layers: str = "layers",
) -> Names:
    """The names of a decoder whose layers' modules we name as transformers does; `buffers` beside the rotary ones.

    With `model` as the base, `blocks/mlp/up_proj/kernel` is `model.layers.{layer}.mlp.up_proj.weight`.
    """
    outside = {"embed": f"{base}.{embedding}", "norm": f"{base}.{norm}", "lm_head": head}

    def weight(path: str) -> Weight:
        first, *inside, leaf = path.split("/")
        inside = ["experts.{expert}" if part == "experts" else part for part in inside]
        module = ".".join([f"{base}.{layers}.{{layer}}", *inside]) if first == "blocks" else outside[first]
        return Weight(path, f"{module}.{'bias' if leaf == 'bias' else 'weight'}", transposed=leaf == "kernel")

    return Names(
        weight,
        base=base,
        modules=(embedding, layers, norm),
        embedding=f"{base}.{embedding}.weight",
        head=f"{head}.weight",
        kept=f"{head}.",
        buffers=(*ROTARY_BUFFERS, *buffers),
    )


@dataclass(frozen=True)
class Family:
    """A family of models: the `model_type` of its config.json files, their reader, what it is stored as, its weights.

    `read` raises `ConfigError` for a missing number and for an attribute that is not handled. A decoder's config tells
    its `traits`, and so does that of an encoder whose norms come before what they are of.
    """

    model_types: tuple[str, ...]
    config: type
    read: Callable[[Mapping[str, Any]], Config]
    names: Names
    num_layers: str = "num_hidden_layers"
    """What config.json calls the number of layers."""


def require_texts(config: Config, purpose: str) -> None:
    """Raises UserError for a model that sees images."""
    if config.capabilities.images:
        raise UserError(
            f"{purpose} needs a model that reads texts, and this one ({config.model_type}) sees images: see jaxpaint "
            "images"
        )


def require_lm_head(config: Config, purpose: str) -> None:
    """Raises UserError for an encoder, and for a decoder that was saved without its head."""
    require_decoder(config, purpose)
    if not config.capabilities.lm_head:
        raise UserError(
            f"{purpose} needs logits, and this {config.model_type} checkpoint was saved without its head (as those of "
            "sentence embeddings and reward models are): it has hidden_states alone"
        )


def require_decoder(config: Config, purpose: str) -> None:
    """Raises UserError for an encoder, which does not read from left to right."""
    if not config.capabilities.decoder:
        raise UserError(
            f"{purpose} needs a decoder (such as Llama, Mistral, Qwen2, Pythia), and this model is an encoder "
            f"({config.model_type})"
        )


def require_pooler(config: Config, *, trained: bool = False) -> None:
    """Raises UserError for a model without the pooled output that GLUE's classifiers read; `trained`, it may be new."""
    has = config.capabilities
    if not has.pooler and not (trained and has.new_pooler):
        new = "; fine-tuned, it gets a new one" if has.new_pooler else ""
        raise UserError(f"this {config.model_type} checkpoint has no pooler, which GLUE's classifiers read{new}")
