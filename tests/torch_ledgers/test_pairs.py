"""Which pairs are found, and that the gradients agree with every one: W1ᵀg1 = g2W2ᵀ is what makes a pair."""

from __future__ import annotations

import warnings

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from rankfall.errors import InvalidInput  # noqa: E402
from rankfall.torch import Ledger, LedgerWarning, LinearPair, Piece, linear_pairs  # noqa: E402
from torch_ledgers.models import Adapted, Block, FusedHeads, PackedHeads, WideHeads  # noqa: E402


def defects(model, loss, pairs):
    """‖W1ᵀg1 − g2W2ᵀ‖ against its terms; every gradient must be there."""
    model.zero_grad()
    loss().backward()
    found = {}
    for pair in pairs:
        one, two = pair.W1.T @ pair.g1, pair.g2 @ pair.W2.T
        assert one.norm() > 0.0 and two.norm() > 0.0
        found[pair.name] = float((one - two).norm() / one.norm())
    return found


def shaken(model):
    """Double precision and no weight at a special value."""
    model = model.double()
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        with torch.no_grad():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3)
    return model


def names(pairs):
    return [pair.name for pair in pairs]


MULTIHEAD = {
    "packed": {},
    "no biases": {"bias": False},
    "other widths": {"kdim": 5, "vdim": 3},
    "added biases": {"add_bias_kv": True},
    "all": {"kdim": 5, "vdim": 3, "add_bias_kv": True, "add_zero_attn": True},
}


@pytest.mark.parametrize("options", MULTIHEAD.values(), ids=MULTIHEAD)
def test_multihead_attention(options):
    model = shaken(nn.MultiheadAttention(6, 2, batch_first=True, **options))
    pairs = linear_pairs(model)
    assert names(pairs) == ["value-output[0]", "value-output[1]", "query-key[0]", "query-key[1]"]
    assert not pairs.notes
    bias, added = options.get("bias", True), options.get("add_bias_kv", False)
    assert pairs[0].W1.shape == (options.get("vdim", 6) + bias + added, 3) and pairs[0].W2.shape == (3, 6)
    assert pairs[2].W1.shape == (6 + bias, 3)
    assert pairs[2].W2.shape == (3, options.get("kdim", 6) + bias + added)
    x, key, value = (torch.randn(4, 5, n).double() for n in (6, options.get("kdim", 6), options.get("vdim", 6)))
    found = defects(model, lambda: model(x, key, value)[0].square().sum(), pairs)
    assert max(found.values()) < 1e-13


def test_views():
    model = nn.MultiheadAttention(6, 2, bias=False)
    pair = linear_pairs(model)[1]
    assert pair.W1.data_ptr() == model.in_proj_weight[15:].data_ptr()
    assert torch.equal(pair.W2, model.out_proj.weight[:, 3:].T) and not pair.W1.requires_grad
    assert pair.g1 is None and pair.g2 is None
    assert (pair.kind, pair.width, pair.n_inputs, pair.n_outputs, pair.wide) == ("value-output", 3, 6, 6, False)


def test_transformer_layers():
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, activation="gelu"), 2, enable_nested_tensor=False
    )
    pairs = linear_pairs(model)
    assert len(pairs) == 8 and pairs[0].name == "layers.0.self_attn.value-output[0]"
    decoder = linear_pairs(nn.TransformerDecoderLayer(8, 2, 16))
    assert {name.split(".")[0] for name in names(decoder)} == {"self_attn", "multihead_attn"}


@pytest.mark.parametrize("kind", [PackedHeads, lambda: WideHeads(12), lambda: FusedHeads(4)])
def test_whether_queries_and_keys_are_taken(kind):
    model = Block(kind())
    known = isinstance(model.attention, PackedHeads)
    pairs = linear_pairs(model)
    assert any("query-key" in name for name in names(pairs)) == known
    assert any("query–key pairs left out" in note for note in pairs.notes) == (not known)
    assert len(linear_pairs(model, query_key=True)) == 4
    assert len(linear_pairs(model, query_key=False)) == 2
    assert "note:" in str(pairs) or known


class Grouped(nn.Module):
    """Four query heads share two heads of keys and values (Llama style), here without rotation."""

    def __init__(self, **children):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = nn.Linear(6, 12), nn.Linear(6, 6), nn.Linear(6, 6)
        self.o_proj, self.head_dim = nn.Linear(12, 6), 3
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, x):
        n, t, _ = x.shape
        q = self.q_proj(x).view(n, t, 4, 3).transpose(1, 2)
        k, v = (f(x).view(n, t, 2, 3).transpose(1, 2).repeat_interleave(2, dim=1) for f in (self.k_proj, self.v_proj))
        return self.o_proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_grouped_heads():
    model = shaken(Grouped())
    pairs = linear_pairs(model, query_key=True)
    assert [(p.name, p.n_inputs, p.width, p.n_outputs) for p in pairs] == [
        ("value-output[0]", 7, 3, 12),  # two heads of six outputs
        ("value-output[1]", 7, 3, 12),
        ("query-key[0]", 14, 3, 7),
        ("query-key[1]", 14, 3, 7),
    ]
    x = torch.randn(4, 5, 6).double()
    assert max(defects(model, lambda: model(x).square().sum(), pairs).values()) < 1e-13


def test_what_stands_between_is_not_overlooked():
    def of(**children):
        return linear_pairs(Grouped(**children), query_key=True)

    assert len(of(attn_dropout=nn.Dropout(0.1), q_norm=nn.Identity(), k_norm=nn.Identity())) == 4
    for name in ("q_norm", "k_norm", "rotary_emb"):
        pairs = of(**{name: nn.LayerNorm(3)})
        assert names(pairs) == ["value-output[0]", "value-output[1]"] and "normalised or rotated" in pairs.notes[0]
    for children in (
        {"sub_norm": nn.LayerNorm(12)},
        {"gate": nn.Linear(6, 12)},
        {"v_bias": nn.Parameter(torch.ones(3))},
    ):
        pairs = of(**children)
        assert not pairs and next(iter(children)) in pairs.notes[0]
    assert "is LayerNorm, not a plain linear" in of(v_proj=nn.LayerNorm(6)).notes[0]
    odd = Grouped()
    odd.head_dim = 5
    assert "no whole number of heads" in linear_pairs(odd).notes[0]
    unknown = Grouped()
    del unknown.head_dim
    assert "number of heads is not known" in linear_pairs(unknown).notes[0]
    interleaved = nn.Module()
    interleaved.query_key_value, interleaved.dense = nn.Linear(6, 18), nn.Linear(6, 6)
    assert "order of queries" in linear_pairs(interleaved).notes[0]


def test_plain_adapters():
    (pair,) = linear_pairs(Adapted(rank=3))
    assert (pair.name, pair.kind, pair.n_inputs, pair.width, pair.n_outputs) == ("lora", "adapter", 4, 3, 6)
    turned = nn.Module()
    turned.lora_A, turned.lora_B = nn.Parameter(torch.ones(8, 2)), nn.Parameter(torch.ones(2, 8))
    (pair,) = linear_pairs(turned)
    assert (pair.n_inputs, pair.width, pair.n_outputs) == (8, 2, 8)
    # as many inputs as outputs: the rank is the smaller number, unless the module says otherwise
    turned.r = 8
    (pair,) = linear_pairs(turned)
    assert (pair.n_inputs, pair.width, pair.n_outputs) == (2, 8, 2)
    square = nn.Module()
    square.lora_A, square.lora_B = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    assert not linear_pairs(square) and "which axis is the rank" in linear_pairs(square).notes[0]
    layers = nn.Module()
    layers.lora_A, layers.lora_B = nn.Linear(5, 2), nn.Linear(2, 4)
    (pair,) = linear_pairs(layers)
    assert (pair.n_inputs, pair.width, pair.n_outputs) == (6, 2, 4)


def test_convolutional_adapters():
    model = nn.Module()
    model.lora_A = nn.ModuleDict({"default": nn.Conv2d(3, 2, 3, padding=1)})
    model.lora_B = nn.ModuleDict({"default": nn.Conv2d(2, 4, 1)})
    shaken(model)
    pairs = linear_pairs(model)
    assert [(p.name, p.n_inputs, p.width, p.n_outputs) for p in pairs] == [("lora[default]", 28, 2, 4)]
    x = torch.randn(2, 3, 5, 5).double()
    loss = lambda: torch.tanh(model.lora_B["default"](model.lora_A["default"](x))).square().sum()  # noqa: E731
    assert max(defects(model, loss, pairs).values()) < 1e-13
    model.lora_B["default"] = nn.Conv2d(2, 4, 3)
    assert not linear_pairs(model) and "no plain linear layers" in linear_pairs(model).notes[0]


def test_chains():
    L = nn.Linear
    model = nn.Sequential(L(3, 4), nn.Identity(), nn.Sequential(L(4, 5), L(5, 4)), L(4, 4), nn.ReLU(), L(4, 2), L(2, 2))
    assert names(linear_pairs(model)) == ["0 → 2.0", "2.0 → 2.1", "2.1 → 3", "5 → 6"]
    assert names(linear_pairs(nn.ModuleDict({"net": model})))[0] == "net.0 → net.2.0"
    assert not linear_pairs(nn.Sequential(L(3, 4), nn.Dropout(0.1), L(4, 2)))

    class Own(nn.Sequential):
        def forward(self, x):
            return self[1](self[0](x).relu())

    class OwnLinear(nn.Linear):
        def forward(self, x):
            return super().forward(x).relu()

    assert not linear_pairs(Own(L(3, 4), L(4, 2)))
    assert not linear_pairs(nn.Sequential(OwnLinear(3, 4), L(4, 2)))
    assert not linear_pairs(nn.Sequential(torch.nn.utils.parametrizations.weight_norm(L(3, 4)), L(4, 2)))
    assert len(linear_pairs(nn.Sequential(nn.Sequential(L(3, 4)), L(4, 2)))) == 1


def test_what_is_used_elsewhere_is_left_out():
    L = nn.Linear
    tied = nn.ModuleDict({"chain": nn.Sequential(L(3, 4), L(4, 3)), "other": L(3, 4)})
    tied["other"].weight = tied["chain"][0].weight
    first, second = L(4, 4), L(4, 4)
    again = nn.ModuleDict({"chain": nn.Sequential(first, second), "other": first})
    for model in (tied, again, nn.Sequential(first, second, nn.ReLU(), first), nn.Sequential(first, first)):
        pairs = linear_pairs(model)
        assert not pairs and "is used in another place as well" in pairs.notes[0]


def test_a_pair_that_is_used_twice_as_a_whole():
    """The loss is a function of the product all the same."""
    block = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    model = shaken(nn.ModuleList([block, nn.Tanh(), block]))
    pairs = linear_pairs(model)
    assert names(pairs) == ["0.0 → 0.1"] and not pairs.notes
    x = torch.randn(5, 4).double()
    assert max(defects(model, lambda: model[2](model[1](model[0](x))).square().sum(), pairs).values()) < 1e-13


def test_pairs_by_name():
    model = nn.ModuleDict({"fc1": nn.Linear(3, 8), "fc2": nn.Linear(8, 2), "key": nn.Linear(3, 8)})
    (pair,) = linear_pairs(model, [("fc1", "fc2")])
    assert (pair.name, pair.n_inputs, pair.width, pair.n_outputs) == ("fc1 → fc2", 4, 8, 2)
    (pair,) = linear_pairs(model, [("fc1.weight", "fc2.weight")])
    assert pair.n_inputs == 3
    pairs = linear_pairs(model, [("fc1", "fc2", 4), ("fc1", "key", 2, "query-key")])
    assert names(pairs)[::4] == ["fc1 → fc2[0]", "fc1 → key[0]"] and len(pairs) == 6
    assert (pairs[4].n_inputs, pairs[4].width, pairs[4].n_outputs) == (4, 4, 4)
    again = LinearPair("mine", "consecutive", pairs[0].first, pairs[0].second)
    assert linear_pairs(model, [again])[0] is again


def test_bad_names():
    model = nn.ModuleDict({"fc1": nn.Linear(3, 8), "fc2": nn.Linear(8, 2), "norm": nn.LayerNorm(8)})
    bad = {
        ("fc1", "fc3"): r"no layer or parameter named 'fc3'; did you mean 'fc2'\?",
        ("fc1", "qqqqqqq"): r"see model\.named_modules",
        ("fc2", "fc1"): r"does not fit: the first has 2 outputs, the second 3 inputs",
        ("fc1", "fc2", 3): "8 hidden features cannot be split into 3 heads",
        ("fc1", "fc2", 0): "must be a positive whole number, got 0",
        ("fc1", "fc2", 1, "keys"): "must be 'query-key' or left out, got 'keys'",
        ("fc1", "fc2", 1, "query-key"): "the first has 8 outputs, the second 2 outputs",
        ("fc1", "norm"): "'norm' is LayerNorm",
        ("fc1.bias", "fc2"): r"parameter 'fc1\.bias' must be a matrix, got shape \(8,\)",
        ("fc1",): "a pair must be",
        (1, 2): "a pair must be",
    }
    for entry, message in bad.items():
        with pytest.raises(InvalidInput, match=message):
            linear_pairs(model, [entry])
    with pytest.raises(InvalidInput, match="pairs must be a list"):
        linear_pairs(model, "fc1")
    with pytest.raises(InvalidInput, match="different names"):
        linear_pairs(model, [("fc1", "fc2"), ("fc1", "fc2")])
    first, second = Piece("a", nn.Parameter(torch.ones(3, 2))), Piece("b", nn.Parameter(torch.ones(4, 2)))
    with pytest.raises(InvalidInput, match=r"do not fit: .* \(a 3, b 4\)"):
        LinearPair("x", "consecutive", (first,), (second,))
    with pytest.raises(InvalidInput, match="at least one piece"):
        LinearPair("x", "consecutive", (), (second,))


def test_meta_and_complex_parameters():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(InvalidInput, match=r"'0\.weight' is on the meta device"):
        linear_pairs(model)
    with pytest.raises(InvalidInput, match="meta device"):
        Ledger(model, torch.optim.SGD(model.parameters(), lr=0.1))
    numbers = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64))
    with pytest.raises(InvalidInput, match="real floating point"):
        linear_pairs(numbers)


def test_peft_adapters():
    peft = pytest.importorskip("peft")
    base = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0", "2"], lora_dropout=0.1)).double()
    pairs = linear_pairs(model)
    assert [(p.kind, p.n_inputs, p.width, p.n_outputs) for p in pairs] == [("adapter", 6, 2, 8), ("adapter", 8, 2, 3)]
    assert all(pair.name.endswith(".lora[default]") for pair in pairs)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.3, weight_decay=0.01)
    ledger = Ledger(model, optimizer)
    for _ in range(200):
        optimizer.zero_grad()
        x = torch.randn(16, 6).double()
        (model(x) - x[:, :3].sin()).square().mean().backward()
        optimizer.step()
    history = ledger.history()
    assert float(history.balance_error.max()) < 1e-13 < 1e-2 < float(history.balance_drift[-1].min())
    assert all(verdict.passed for verdict in ledger.verdicts())


def test_models_of_transformers():
    """GPT-2 (fused, no rotation): all pairs. Llama (shared heads, rotation): the rest is refuted."""
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

        gpt = GPT2LMHeadModel(GPT2Config(n_embd=8, n_head=2, n_layer=2, vocab_size=11, n_positions=8))
        shape = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}
        llama = LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, vocab_size=11, **shape))
    x = torch.randint(0, 11, (4, 6))
    for model, number in ((shaken(gpt).eval(), 8), (shaken(llama).eval(), 2)):
        pairs = linear_pairs(model)
        assert len(pairs) == number
        assert max(defects(model, lambda model=model: model(x, labels=x).loss, pairs).values()) < 1e-12
    assert not linear_pairs(gpt).notes and "query_key=True" in linear_pairs(llama).notes[0]
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-3)
    ledger = Ledger(llama, optimizer, query_key=True)
    llama(x, labels=x).loss.backward()
    with pytest.warns(LedgerWarning, match="query-key.*something else than a product"):
        optimizer.step()
    defect = ledger.history().product_defect[-1]
    assert float(defect.where(defect.kind == "value-output").max()) < 1e-14
    assert float(defect.where(defect.kind == "query-key").min()) > 1e-3


def test_models_of_timm():
    timm = pytest.importorskip("timm")
    options = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    model = shaken(timm.models.VisionTransformer(**options))
    pairs = linear_pairs(model)
    assert len(pairs) == 4 and not pairs.notes
    x = torch.randn(2, 3, 8, 8).double()
    assert max(defects(model, lambda: model(x).square().sum(), pairs).values()) < 1e-12
    normalised = linear_pairs(timm.models.VisionTransformer(qk_norm=True, **options))
    assert len(normalised) == 2 and "query–key pairs left out" in normalised.notes[0]


def apart(heads=2):
    """As in BERT: one child has query, key and value, the other the output layer."""
    attention = nn.Module()
    attention.self, attention.output = nn.Module(), nn.Module()
    for name in ("query", "key", "value"):
        attention.self.add_module(name, nn.Linear(8, 8))
    attention.self.dropout = nn.Dropout(0.1)
    attention.output.dense = nn.Linear(8, 8)
    if heads:
        attention.self.num_attention_heads = heads
    return attention


def test_projections_whose_output_layer_is_apart():
    found = linear_pairs(apart())
    assert [pair.name for pair in found] == ["value-output[0]", "value-output[1]"]
    assert "query–key pairs left out" in found.notes[0]
    assert [pair.kind for pair in linear_pairs(apart(), query_key=True)] == ["value-output"] * 2 + ["query-key"] * 2
    unknown = linear_pairs(apart(heads=None))
    assert not unknown and "number of heads is not known" in unknown.notes[0]
    assert "('self.value', 'output.dense', number of heads)" in unknown.notes[0]
    model = apart()
    model.self.distance_embedding = nn.Embedding(7, 4)
    assert not linear_pairs(model) and "distance_embedding may stand in between" in linear_pairs(model).notes[0]
    assert "do not fit 3 heads" in linear_pairs(apart(heads=3)).notes[0]
    named = linear_pairs(apart(heads=None), [("self.value", "output.dense", 2)])
    assert [pair.width for pair in named] == [4, 4]


def test_projections_without_an_output_layer_are_noted():
    attention = apart().self
    found = linear_pairs(attention)
    assert not found and "which layer takes what query, key and value give is not known" in found.notes[0]


def test_bert_of_transformers():
    pytest.importorskip("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import BertConfig, BertForMaskedLM

        shape = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_hidden_layers": 2}
        bert = shaken(BertForMaskedLM(BertConfig(vocab_size=11, max_position_embeddings=8, **shape))).eval()
    pairs = linear_pairs(bert)
    assert len(pairs) == 8 and not pairs.notes
    x = torch.randint(0, 11, (4, 6))
    assert max(defects(bert, lambda: bert(x, labels=x).loss, pairs).values()) < 1e-12
