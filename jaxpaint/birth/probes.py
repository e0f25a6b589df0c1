"""What a matrix stores: for each key, is its partner the best match among all candidates? (The paper's recall R.)

Fractions from 0 to 1, read off the weights alone: no text, no softmax, and so the same under every plan.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxpaint.birth.layers import Parameters, of_layer

EARLY = 64  # positions that the second cut-off of the previous-token memory looks at


def previous_token_recall(parameters: Parameters, positions: int | None = None) -> Float[Array, ""]:
    """R(W_K of layer 0): t = 1 ... positions - 1 whose best key among s = 0 ... positions - 2 is t - 1; no mask."""
    embedding = parameters["positions"][:positions]
    scores = embedding[1:] @ parameters["layers"]["key"][0] @ embedding[:-1].T
    return _on_diagonal(scores)


def trigger_recall(parameters: Parameters, triggers: Int[Array, " K"]) -> Float[Array, ""]:
    """R(W_K of layer 1): triggers whose best key is what layer 0 writes of the trigger itself; chance is 1/K.

    Ids below 0 stand for no trigger; random triggers are all tokens.
    """
    layers = parameters["layers"]
    tokens, is_one = parameters["tokens"][triggers], triggers >= 0
    scores = tokens @ layers["key"][1] @ (tokens @ (layers["output"][0] @ layers["value"][0]).T).T
    best = jnp.argmax(jnp.where(is_one, scores, -jnp.inf), axis=1)
    return ((best == jnp.arange(len(triggers))) & is_one).sum() / is_one.sum()


def output_recall(parameters: Parameters) -> Float[Array, ""]:
    """R(W_O of layer 1): tokens that come out as themselves where they are attended to; chance is 1/N."""
    layer = of_layer(parameters, 1)
    written = parameters["tokens"] @ layer["value"].T @ layer["output"].T
    return _on_diagonal(written @ parameters["unembedding"].T)


def bigram_distance(
    written: Float[Array, "N D"],
    unembedding: Float[Array, "N D"],
    bigrams: Float[Array, "N N"],
    triggers: Int[Array, " K"],
) -> Float[Array, ""]:
    """D(W_F): the mean KL divergence, in nats, of F's prediction from the bigrams, over tokens that are no trigger.

    Of models that have an F; `written` is what it makes of each token's embedding alone.
    """
    predicted = jax.nn.log_softmax(written @ unembedding.T)
    divergence = jnp.where(bigrams > 0, bigrams * (jnp.log(jnp.maximum(bigrams, 1e-30)) - predicted), 0).sum(axis=1)
    is_trigger = (jnp.arange(len(divergence))[:, None] == triggers).any(axis=1)
    return jnp.where(is_trigger, 0, divergence).sum() / (~is_trigger).sum()


def recalls(parameters: Parameters, triggers: Int[Array, " K"]) -> dict[str, Float[Array, ""]]:
    """All of a model of two layers; `previous_token` over t < 64, `previous_token_all` over all positions.

    These two are of models with vectors of positions: rotary ones have no key to ask for.
    """
    found = {}
    if "positions" in parameters:
        found["previous_token"] = previous_token_recall(parameters, EARLY)
        found["previous_token_all"] = previous_token_recall(parameters)
    return found | {
        "trigger": trigger_recall(parameters, triggers),
        "output": output_recall(parameters),
    }


def _on_diagonal(scores: Float[Array, "keys candidates"]) -> Float[Array, ""]:
    return (jnp.argmax(scores, axis=1) == jnp.arange(len(scores))).mean()
