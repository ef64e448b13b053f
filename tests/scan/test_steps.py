"""Names that tell a training step."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankfall.scan._steps import by_step, step_of


@pytest.mark.parametrize(
    "name, step",
    [
        ("checkpoint-500", 500),
        ("checkpoint_0012.pt", 12),
        ("step_1000.safetensors", 1000),
        ("epoch=3-step=400.ckpt", 400),
        ("global_step2000", 2000),
        ("model-v2-iter-30.pt", 30),
        ("epoch07.pth", 7),
        ("weights_15.bin", 15),
        ("model-00001-of-00002.safetensors", None),
        ("final.pt", None),
    ],
)
def test_step_of(name, step):
    assert step_of(name) == step


def test_by_step_takes_the_largest_group_in_order_of_numbers():
    names = ["checkpoint-1000", "checkpoint-500", "checkpoint-90", "final", "old-1", "old-2"]
    assert list(by_step(Path(name) for name in names).items()) == [
        (90, Path("checkpoint-90")),
        (500, Path("checkpoint-500")),
        (1000, Path("checkpoint-1000")),
    ]
    assert by_step([Path("checkpoint-1"), Path("step-2")]) == {}
    assert by_step([Path("step-1.pt"), Path("step-01.pt")]) == {}
