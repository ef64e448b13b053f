"""The networks of the experiments as modules of torch's, and an ordinary loop that trains them."""

import torch

from rankfall.experiments._beyond import _training, convolution, images, transformer
from rankfall.experiments._beyond._classifier import Schedule

SCHEDULE = Schedule(
    step_size=0.1, flips=0.4, samples=40, tests=50, probe=30, jacobian_probe=2, batch_size=6, steps=25, save_points=3
)
CONVOLUTIONS = convolution.Convolutions(filters=(5, 6))
TRANSFORMER = transformer.Transformer(features=8, heads=2, head_width=4, hidden=12)
DIGITS = images.load(None)


class Convolutional(torch.nn.Module):
    """The same network as modules; its filters see the places of a patch as we list them, the channels last."""

    def __init__(self, start, classes=10):
        first, second = len(start["filters 1"]), len(start["filters 2"])
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, first, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(first, second, 3, stride=2, padding=1),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(4 * second, classes),
        )
        with torch.no_grad():
            for number, inputs in ((0, 1), (2, first)):
                name = f"filters {number // 2 + 1}"
                self.layers[number].weight.copy_(start[name].view(-1, 3, 3, inputs).permute(0, 3, 1, 2))
                self.layers[number].bias.copy_(start[f"{name} shift"])
            # their units are ordered by channel and place, ours by place and channel
            self.layers[5].weight.copy_(start["scores"].view(classes, 4, second).transpose(1, 2).flatten(1))
            self.layers[5].bias.copy_(start["scores shift"])

    def forward(self, given):
        return self.layers(given[:, None])

    def hidden(self, given):
        return {"layer 1": self.layers[:2](given[:, None]).flatten(1), "layer 2": self.layers[:5](given[:, None])}

    def matrices(self):
        return [self.layers[i].weight.flatten(1) for i in (0, 2, 5)]


class Encoder(torch.nn.Module):
    """The same network around torch's encoder layer, in which every head has width features/heads."""

    def __init__(self, start, classes=10):
        super().__init__()
        width = TRANSFORMER.features
        self.embed = torch.nn.Linear(8, width)
        self.positions = torch.nn.Parameter(start["positions"].clone())
        self.block = torch.nn.TransformerEncoderLayer(
            width, 2, TRANSFORMER.hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.norm = torch.nn.LayerNorm(width)
        self.scores = torch.nn.Linear(width, classes)
        self.places = {
            "norm_attention": self.block.norm1,
            "norm_hidden": self.block.norm2,
            "enter": self.block.linear1,
            "leave": self.block.linear2,
            "attention.out_proj": self.block.self_attn.out_proj,
            "embed": self.embed,
            "norm_scores": self.norm,
            "scores": self.scores,
        }
        with torch.no_grad():
            for name, module in self.places.items():
                module.weight.copy_(start[f"{name}.weight"])
                module.bias.copy_(start[f"{name}.bias"])
            for part, packed in (
                ("weight", self.block.self_attn.in_proj_weight),
                ("bias", self.block.self_attn.in_proj_bias),
            ):
                packed.copy_(torch.cat([start[f"attention.{letter}_proj.{part}"] for letter in "qkv"]))

    def forward(self, given):
        return self.scores(self.mean(given))

    def mean(self, given):
        return self.norm(self.block(self.embed(given) + self.positions)).mean(1)

    def hidden(self, given):
        return {"mean": self.mean(given)}

    def matrices(self):
        attention = self.block.self_attn
        heads = []
        for head in range(2):
            rows = [slice(8 * i + 4 * head, 8 * i + 4 * head + 4) for i in range(3)]
            heads += [attention.in_proj_weight[each] for each in rows]
            heads.append(attention.out_proj.weight[:, 4 * head : 4 * head + 4])
        return [self.embed.weight, *heads, *(self.places[name].weight for name in ("enter", "leave", "scores"))]


def ordinary_loop(model, seed, arm, optimizer=None):
    """25 steps on what the seed draws; the streams are drawn 512 steps at a time."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=SCHEDULE.step_size)
    split = images.draw(DIGITS, [seed], SCHEDULE.samples, SCHEDULE.tests)
    inputs, labels = split.inputs[0], split.labels[0]
    size = (512, SCHEDULE.batch_size)
    chosen = torch.randint(SCHEDULE.samples, size, generator=_training.generator(seed, "batches"))
    source = _training.generator(seed, "flips")
    replaced = torch.rand(*size, generator=source) < SCHEDULE.flips
    shifts = torch.randint(1, 10, size, generator=source)
    for step in range(SCHEDULE.steps):
        x, y = (inputs, labels) if arm.startswith("gd") else (inputs[chosen[step]], labels[chosen[step]])
        if arm == "label-noise":
            y = torch.where(replaced[step], (y + shifts[step]) % 10, y)
        if arm == "gd-smoothed":  # what a label that is flipped with probability 0.4 is on average
            y = 0.6 * torch.nn.functional.one_hot(y, 10) + 0.4 / 9 * (1 - torch.nn.functional.one_hot(y, 10))
        optimizer.zero_grad()
        torch.nn.CrossEntropyLoss()(model(x), y).backward()
        optimizer.step()
    return split
