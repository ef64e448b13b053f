"""What an optimizer does to a low-rank adapter beyond plain SGD: the balance and the volume it gives or takes."""

import torch

import rankfall as rf
from rankfall.torch import Ledger


class Adapted(torch.nn.Module):
    """A frozen layer W with an adapter, x ↦ W x + B A x (parameters named as in LoRA)."""

    def __init__(self, base: torch.nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.lora_A = torch.nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        # not zero, so that det(ZZᵀ) of Z = [A, Bᵀ]ᵀ is not zero either; the rank 20 ≥ 8 + 6 makes it defined
        self.lora_B = torch.nn.Parameter(0.1 * torch.randn(base.out_features, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.lora_A.T @ self.lora_B.T


def train(name: str) -> None:
    torch.manual_seed(0)
    teacher, start = torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)
    model = Adapted(start, rank=20)
    trained = [model.lora_A, model.lora_B]
    optimizer = {
        "SGD": lambda: torch.optim.SGD(trained, lr=0.05, weight_decay=0.01),
        "SGD, momentum 0.9": lambda: torch.optim.SGD(trained, lr=0.005, weight_decay=0.01, momentum=0.9),
        "AdamW": lambda: torch.optim.AdamW(trained, lr=0.002, weight_decay=0.01),
    }[name]()
    ledger = Ledger(model, optimizer, every=50)
    for _ in range(1000):
        x = torch.randn(16, 8)
        loss = (torch.tanh(model(x)) - torch.tanh(teacher(x))).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ledger.remove()
    end = ledger.history().isel(step=-1, pair=0)
    product = (model.lora_B @ model.lora_A).detach()
    rank = float(rf.ranks.stable_rank(rf.ranks.singular_values(product)))
    numbers = [end.balance_drift, end.balance_error, end.log_det_drift, end.log_det_error]
    cells = [f"{loss.item():.4f}", f"{rank:.2f}", *(f"{float(number):.2g}" for number in numbers)]
    print(f"{name:<18}" + "".join(f"{cell:>13}" for cell in cells))
    if name == "SGD":
        for verdict in ledger.verdicts(terms=16):
            print(f"  {verdict.status} {verdict.law}, error {verdict.error:.1g} ≤ {verdict.tolerance:.1g}")


words = ["loss", "rank of BA", "Q moved", "Q - ledger", "log det", "… - ledger"]
print(f"{'after 1000 steps':<18}" + "".join(f"{word:>13}" for word in words))
for optimizer_name in ("SGD", "SGD, momentum 0.9", "AdamW"):
    train(optimizer_name)
