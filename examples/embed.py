"""embed.py — a Python program that embeds dslc: loads a model, trains it on arrays of its own, runs it, keeps its weights.

python examples/embed.py        # prints the loss before and after, the accuracy on held-out digits; takes a few seconds
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import dslc

HERE = Path(__file__).parent


def main() -> float:
    """Trains `digits_mlp.dsl` for 300 steps; the accuracy on 256 digits that it never saw."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)

    model = dslc.load(HERE / "digits_mlp.dsl", steps=300)  # a train key, overridden
    trainer = dslc.Trainer(model)
    order = np.random.default_rng(0).permutation(len(images) - 256)
    losses = []
    for step in range(300):
        rows = order[np.arange(step * 64, (step + 1) * 64) % len(order)]
        losses.append(trainer.step(image=images[rows], label=labels[rows]))
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}")

    program = dslc.compile(model)  # shares the model's parameters, as trained
    logits = np.empty((64, 10), np.float32)
    right = 0
    for start in range(len(images) - 256, len(images), 64):
        program(image=images[start : start + 64], out={"logits": logits})  # results into memory of ours
        right += int((logits.argmax(1) == labels[start : start + 64]).sum())
    print(f"{right / 256:.1%} right; {model.params['linear.w'].shape} first weights")
    return right / 256


if __name__ == "__main__":
    main()
