"""The same laws on measured data: scikit-learn's diabetes set, standardised. Needs `pip install rankfall[data]`."""

import numpy as np

import rankfall as rf
from rankfall import datasets

problem = datasets.load("diabetes")
network = rf.LinearNetwork.gaussian(n_inputs=problem.n_inputs, width=20, n_outputs=1, scale=0.5)
method = rf.StochasticGradientFlow(label_noise=1.0, step_size=0.01)
run = rf.simulate(problem, network, method, duration=100.0, replicates=32, seed=0)

first, last = (np.median(run.singular_values_W1[:, moment], axis=0) for moment in (0, -1))
print("median singular values of W1 at the start:", np.round(first, 3))
print("and at the end:                           ", np.round(last, 3))
for verdict in rf.laws.check(run, problem):
    print(verdict)
