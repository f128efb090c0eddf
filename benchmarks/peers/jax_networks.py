"""Networks, losses and AdamW in jax, jitted, for the GPU benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

State = dict[str, jax.Array]


def lstm(w: State, x: jax.Array) -> jax.Array:
    """The states [batch, time, hidden]; gates [in, 4, hidden] are input, forget, cell, output. Products with the inputs are made before the scan."""
    hidden = w["lstm.wh"].shape[0]
    before = jnp.einsum("bti,igu->tbgu", x, w["lstm.wx"]) + w["lstm.bias"]

    def turn(carry: tuple[jax.Array, jax.Array], given: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        h, c = carry
        z = given + jnp.einsum("bv,vgu->bgu", h, w["lstm.wh"])
        c = jax.nn.sigmoid(z[:, 1]) * c + jax.nn.sigmoid(z[:, 0]) * jnp.tanh(z[:, 2])
        h = jax.nn.sigmoid(z[:, 3]) * jnp.tanh(c)
        return (h, c), h

    start = jnp.zeros((x.shape[0], hidden), x.dtype)
    return jnp.swapaxes(jax.lax.scan(turn, (start, start), before)[1], 0, 1)


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each row, summed in float32."""
    wide = logits.astype(jnp.float32)
    return jax.nn.logsumexp(wide, -1) - jnp.take_along_axis(wide, labels[..., None], -1)[..., 0]


def runner(arguments: Callable[[], tuple[Any, ...]], run: Callable[..., Any]) -> Callable[[], Any]:
    """A function that calls the jitted `run` and waits for it."""
    jitted = jax.jit(run)
    return lambda: jax.block_until_ready(jitted(*arguments()))


def adamw(w: State, m: State, v: State, g: State, t: jax.Array, rate: float, decay: float) -> tuple[State, State, State]:
    """One step of AdamW (Loshchilov and Hutter 2019): new parameters and moments."""
    m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
    v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
    first, second = 1 - 0.9**t, 1 - 0.999**t
    w = jax.tree.map(lambda p, a, b: p * (1 - rate * decay) - rate * (a / first) / (jnp.sqrt(b / second) + 1e-8), w, m, v)
    return w, m, v


def stepper(state: State, loss: Callable[[State], jax.Array], rate: float, decay: float) -> Callable[[], jax.Array]:
    """A function that makes one training step and gives its loss; parameters and moments are donated."""

    def step(w: State, m: State, v: State, t: jax.Array) -> tuple[State, State, State, jax.Array]:
        value, g = jax.value_and_grad(loss)(w)
        return (*adamw(w, m, v, g, t, rate, decay), value)

    jitted = jax.jit(step, donate_argnums=(0, 1, 2))
    kept: list[Any] = [state, *({k: jnp.zeros_like(x) for k, x in state.items()} for _ in range(2))]
    count = [0]

    def run() -> jax.Array:
        count[0] += 1
        *kept[:], value = jitted(*kept, jnp.float32(count[0]))
        return jax.block_until_ready(value)

    return run
