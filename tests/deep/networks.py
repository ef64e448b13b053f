"""A small problem, deep networks and one of each method: what these tests start from."""

from __future__ import annotations

import rankfall as rf

PROBLEM = rf.Problem.gaussian(n_samples=60, n_inputs=3, n_outputs=2, seed=0)
# widths 3-8-4-2: the first pair is wide (8 ≥ 3 + 4) and loses a hidden unit to the reduction, the second is not
NETWORK = rf.LinearNetwork.gaussian(3, [8, 4], 2, scale=0.5)

METHODS = {
    "gradient flow": (rf.GradientFlow(), {"duration": 2.0}),
    "gradient flow, given steps": (rf.GradientFlow(), {"duration": 2.0, "dt": 0.01}),
    "stochastic flow": (rf.StochasticGradientFlow(2.0, 0.02), {"duration": 2.0, "dt": 0.01}),
    "gradient descent": (rf.GradientDescent(0.01, weight_decay=0.01), {"steps": 200}),
    "label noise": (rf.LabelNoiseDescent(0.01, 1.0, batch_size=2), {"steps": 200}),
    "mini-batch": (rf.StochasticGradientDescent(0.01, 5, label_noise=0.5), {"steps": 200}),
}


def run_of(name: str, network: rf.LinearNetwork = NETWORK, **options):
    method, length = METHODS[name]
    return rf.simulate(PROBLEM, network, method, **{"seed": 5, "save_points": 5, **length, **options})
