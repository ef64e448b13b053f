"""What is measured: kinds, reshaped and fused matrices, heads, LoRA pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

import rankfall as rf
from rankfall.scan._names import factor, kind_of, role_of

GENERATOR = np.random.default_rng(5)


def normal(*shape):
    return GENERATOR.normal(size=shape)


def scan(tmp_path, tensors, **options):
    save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, tmp_path / "model.safetensors")
    return rf.scan.scan_checkpoint(tmp_path / "model.safetensors", threads=1, **options)


def spectra(found):
    return {layer.name: layer.singular_values for layer in found}


def same(values, matrix):
    """Against NumPy's SVD of the explicit matrix: the errors of two backward stable methods."""
    exact = np.linalg.svd(matrix, compute_uv=False)
    return np.abs(values - exact[: len(values)]).max() <= 2 * max(matrix.shape) * 2.3e-16 * exact[0]


@pytest.mark.parametrize(
    "name, dimensions, kind",
    [
        ("model.layers.0.self_attn.q_proj.weight", 2, "attention"),
        ("encoder.layer.0.attention.self.query.weight", 2, "attention"),
        ("encoder.layer.0.attention.output.dense.weight", 2, "attention"),
        ("encoder.layer.0.output.dense.weight", 2, "dense"),
        ("h.0.attn.c_attn.weight", 2, "attention"),
        ("h.0.attn.c_proj.weight", 2, "attention"),
        ("h.0.mlp.c_proj.weight", 2, "dense"),
        ("self_attn.in_proj_weight", 2, "attention"),
        ("blocks.0.attn.qkv.weight", 2, "attention"),
        ("blocks.0.attn.proj.weight", 2, "attention"),
        ("down.0.attn1.to_out.0.weight", 2, "attention"),
        ("model.embed_tokens.weight", 2, "embedding"),
        ("transformer.wte.weight", 2, "embedding"),
        ("pos_embed", 3, "embedding"),
        ("patch_embed.proj.weight", 4, "convolution"),
        ("conv1.weight", 4, "convolution"),
        ("lm_head.weight", 2, "dense"),
        ("keypoints.weight", 2, "dense"),
    ],
)
def test_kinds(name, dimensions, kind):
    assert kind_of(name, dimensions) == kind


@pytest.mark.parametrize(
    "name, expected",
    [
        (
            "base_model.model.layers.0.self_attn.q_proj.lora_A.weight",
            ("base_model.model.layers.0.self_attn.q_proj", "A"),
        ),
        ("x.q_proj.lora_B.default.weight", ("x.q_proj", "B")),
        ("x.embed_tokens.lora_embedding_A", ("x.embed_tokens", "A")),
        ("x.embed_tokens.lora_embedding_B.other", ("x.embed_tokens[other]", "B")),
        ("lora_unet_down_blocks_0_to_q.lora_down.weight", ("lora_unet_down_blocks_0_to_q", "A")),
        ("unet.to_q.lora.up.weight", ("unet.to_q", "B")),
        ("x.lora_magnitude_vector.weight", None),
        ("x.q_proj.weight", None),
        ("x.lora_A.bias", None),
    ],
)
def test_factors(name, expected):
    assert factor(name) == expected


def test_roles_of_projections_and_nothing_else():
    assert role_of("layers.0.attention.wq.weight") == "query"
    assert role_of("layers.0.feed_forward.wo.weight") is None
    assert role_of("block.0.layer.0.SelfAttention.q.weight") == "query"


def test_convolutions_are_out_by_everything_else(tmp_path):
    conv, line = normal(6, 3, 2, 2), normal(5, 2, 4)
    found = scan(tmp_path, {"conv.weight": conv, "line.weight": line, "depthwise.weight": normal(8, 1, 3, 3)})
    layers = {layer.name: layer for layer in found}
    assert layers["conv.weight"].shape == (6, 3, 2, 2) and layers["conv.weight"].matrix_shape == (6, 12)
    assert same(layers["conv.weight"].singular_values, conv.reshape(6, 12))
    assert layers["line.weight"].matrix_shape == (5, 8)
    assert layers["depthwise.weight"].matrix_shape == (8, 9)


def test_leading_ones_are_dropped(tmp_path):
    found = scan(tmp_path, {"pos_embed": normal(1, 7, 4), "cls_token": normal(1, 1, 4), "gamma": normal(1, 9)})
    assert [(layer.name, layer.matrix_shape) for layer in found] == [("pos_embed", (7, 4))]
    assert dict(found.skipped) == {"with one dimension, or one row or column": 2}


def test_fused_projections(tmp_path):
    fused, transposed = normal(12, 4), normal(4, 12)
    found = spectra(scan(tmp_path, {"a.in_proj_weight": fused, "h.attn.c_attn.weight": transposed}))
    for i, role in enumerate(("query", "key", "value")):
        assert same(found[f"a.in_proj_weight[{role}]"], fused[4 * i : 4 * i + 4])
        assert same(found[f"h.attn.c_attn.weight[{role}]"], transposed[:, 4 * i : 4 * i + 4])
    assert len(found) == 6


def test_fused_projections_of_another_shape_stay_whole(tmp_path):
    found = scan(tmp_path, {"a.qkv.weight": normal(10, 4)})  # grouped queries
    assert [layer.name for layer in found] == ["a.qkv.weight"]


def test_experts_one_by_one(tmp_path):
    stack = normal(3, 5, 4)
    found = spectra(scan(tmp_path, {"mlp.experts.gate_up_proj": stack}))
    assert list(found) == [f"mlp.experts.gate_up_proj[expert {i}]" for i in range(3)]
    assert all(same(found[f"mlp.experts.gate_up_proj[expert {i}]"], stack[i]) for i in range(3))


@pytest.mark.parametrize("heads", [4, "config"])
def test_heads(tmp_path, heads):
    """Grouped keys have fewer heads, of the width of those of the queries; the output projection is cut by columns."""
    config = {"num_attention_heads": 4, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    q, k, o = normal(8, 8), normal(4, 8), normal(8, 8)
    tensors = {"attn.q_proj.weight": q, "attn.k_proj.weight": k, "attn.o_proj.weight": o, "mlp.up.weight": normal(8, 8)}
    scanned = scan(tmp_path, tensors, heads=heads)
    found = spectra(scanned)
    assert [layer.kind for layer in scanned].count("head") == 4 + 2 + 4 == len(found) - 4
    for i in range(4):
        assert same(found[f"attn.q_proj.weight[head {i}]"], q[2 * i : 2 * i + 2])
        assert same(found[f"attn.o_proj.weight[head {i}]"], o[:, 2 * i : 2 * i + 2])
    assert same(found["attn.k_proj.weight[head 1]"], k[2:4])
    assert {layer.part_of for layer in scanned if "[head" in layer.name} == {
        f"attn.{name}_proj.weight" for name in "qko"
    }


def test_heads_of_fused_and_transposed_projections(tmp_path):
    fused, transposed, output = normal(12, 4), normal(4, 12), normal(4, 4)
    tensors = {"a.in_proj_weight": fused, "h.attn.c_attn.weight": transposed, "h.attn.c_proj.weight": output}
    found = spectra(scan(tmp_path, tensors, heads=2))
    assert same(found["a.in_proj_weight[key][head 1]"], fused[6:8])
    assert same(found["h.attn.c_attn.weight[key][head 1]"], transposed[:, 6:8])
    assert same(found["h.attn.c_proj.weight[head 1]"], output[2:4])


def test_heads_need_a_number_from_somewhere(tmp_path):
    for options, message in [
        ({"heads": "config"}, "needs a config.json with num_attention_heads"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"heads": "four"}, "heads must be a whole number"),
    ]:
        with pytest.raises(rf.InvalidInput, match=message):
            scan(tmp_path, {"attn.q_proj.weight": normal(8, 8)}, **options)
    for tensors in ({"attn.q_proj.weight": normal(8, 8)}, {"mlp.up.weight": normal(9, 9)}):
        with pytest.raises(rf.InvalidInput, match=r"heads=3 splits nothing in .* Give the number of heads"):
            scan(tmp_path, tensors, heads=3)
    # where one projection can be split, others are left whole
    assert (
        len(scan(tmp_path, {"attn.q_proj.weight": normal(9, 9), "b.attn.out_proj.weight": normal(8, 8)}, heads=3)) == 5
    )


def test_lora_pairs(tmp_path):
    """The spectrum of B·A, the parameters of the factors, and what a lower rank would save."""
    a, b = normal(4, 30), normal(20, 4)
    a[2:] *= 1e-9  # uses rank 2 of 4
    tensors = {"m.q_proj.lora_A.weight": a, "m.q_proj.lora_B.weight": b, "m.q_proj.weight": normal(20, 30)}
    pair, base = sorted(scan(tmp_path, tensors, measures="all"), key=lambda layer: layer.name)
    assert (pair.name, pair.kind, pair.shape, base.name) == ("m.q_proj", "lora", (20, 30), "m.q_proj.weight")
    assert len(pair.singular_values) == 4 and same(pair.singular_values, b @ a)
    assert pair.parameters == 4 * 50 and pair.factor_rank == 2 and pair.saved == 2 * 50
    assert "rank 4 at most" in pair.note
    explicit = rf.ranks.report(b @ a).values
    for name in ("stable_rank", "effective_rank", "participation_ratio", "nuclear_rank", "energy_rank", "srank"):
        assert pair[name] == pytest.approx(explicit[name], rel=1e-6), name


def test_lora_of_convolutions_and_embeddings(tmp_path):
    a, b = normal(2, 3, 3, 3), normal(5, 2, 1, 1)
    down, up = normal(2, 11), normal(6, 2)
    found = spectra(
        scan(
            tmp_path,
            {"c.lora_A.weight": a, "c.lora_B.weight": b, "e.lora_embedding_A": down, "e.lora_embedding_B": up},
        )
    )
    assert same(found["c"], b.reshape(5, 2) @ a.reshape(2, 27)) and same(found["e"], up @ down)


def test_fresh_adapters_are_zero(tmp_path):
    (pair,) = scan(tmp_path, {"q.lora_A.weight": normal(2, 9), "q.lora_B.weight": np.zeros((7, 2))})
    assert pair["effective_rank"] == 0.0 and pair["numerical_rank"] == 0 and "zero matrix" in pair.note
    assert pair.saved == pair.parameters and not pair.problem


def test_factors_without_their_other_half(tmp_path):
    lone, *rest = scan(
        tmp_path, {"a.lora_A.weight": normal(2, 9), "b.lora_A.weight": normal(3, 9), "b.lora_B.weight": normal(7, 2)}
    )
    assert lone.name == "a.lora_A.weight" and lone.note == "the other factor is missing"
    assert [layer.name for layer in rest] == ["b.lora_A.weight", "b.lora_B.weight"]
    assert all("do not fit: B is 7 × 2, A is 3 × 9" in layer.note for layer in rest)


def test_adapters_of_two_names(tmp_path):
    tensors = {
        f"q.lora_{side}.{name}.weight": normal(*shape)
        for name in ("one", "two")
        for side, shape in (("A", (2, 5)), ("B", (4, 2)))
    }
    assert {layer.name for layer in scan(tmp_path, tensors)} == {"q[one]", "q[two]"}
