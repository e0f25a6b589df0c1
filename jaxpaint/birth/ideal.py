"""The induction head written down: the three matrices as sums of outer products (the paper's section 4.2)."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxpaint.birth.layers import Parameters
from jaxpaint.birth.model import SmallModel


def ideal(
    model: SmallModel, parameters: Parameters, triggers: Int[Array, " K"], *, b: float, gamma: float
) -> Parameters:
    """Parameters of two layers with W_K of both and W_O of layer 1 written down, the rest as given.

        W_K of layer 0 = b sqrt(D) * sum over t >= 1 of p_t p_(t-1)'         each position finds the one before
        W_K of layer 1 = b sqrt(D) * sum over triggers k of e_k (W_OV e_k)'  a trigger finds what followed it earlier
        W_O of layer 1 = gamma * sum over tokens v of u_v (W_V e_v)'         what is attended to comes out as itself

    `b` sharpens attention (sqrt(D) undoes the division of scores), `gamma` scales what is written. `triggers` are ids:
    all tokens where a text may have any.
    """
    layers = parameters["layers"]
    tokens, positions, sharp = parameters["tokens"], parameters["positions"], b * np.sqrt(model.width)
    chosen = tokens[jnp.asarray(triggers)]
    previous = layers["output"][0] @ layers["value"][0]
    return {
        **parameters,
        "layers": {
            **layers,
            "key": jnp.stack([sharp * positions[1:].T @ positions[:-1], sharp * chosen.T @ (chosen @ previous.T)]),
            "output": layers["output"].at[1].set(gamma * parameters["unembedding"].T @ (tokens @ layers["value"][1].T)),
        },
    }
