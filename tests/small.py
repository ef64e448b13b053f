"""A small problem, networks and one of each method: what many tests start from."""

from __future__ import annotations

import rankfall as rf

PROBLEM = rf.Problem.gaussian(n_samples=60, n_inputs=3, n_outputs=2, seed=0)
WIDE = rf.LinearNetwork.gaussian(n_inputs=3, width=7, n_outputs=2, scale=0.7)
NARROW = rf.LinearNetwork.gaussian(n_inputs=3, width=3, n_outputs=2, scale=0.7)

# Every method with the length of a run and a step that suits the small problem.
METHODS = {
    "gradient flow": (rf.GradientFlow(), {"duration": 3.0}),
    "gradient flow, given steps": (rf.GradientFlow(), {"duration": 3.0, "dt": 0.01}),
    "geometric": (rf.StochasticGradientFlow(label_noise=2.0, step_size=0.02), {"duration": 3.0, "dt": 0.01}),
    "euler": (
        rf.StochasticGradientFlow(label_noise=2.0, step_size=0.02, integrator="euler"),
        {"duration": 3.0, "dt": 0.01},
    ),
    "gradient descent": (rf.GradientDescent(step_size=0.01, weight_decay=0.01), {"steps": 300}),
    "label noise": (rf.LabelNoiseDescent(step_size=0.01, label_noise=1.0, batch_size=2), {"steps": 300}),
    "mini-batch": (rf.StochasticGradientDescent(step_size=0.01, batch_size=5, label_noise=0.5), {"steps": 300}),
}
