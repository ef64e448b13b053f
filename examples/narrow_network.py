"""Fewer hidden units than inputs and outputs: det M is zero, and the balance of the layers certifies a run."""

import rankfall as rf

problem = rf.Problem.gaussian(n_samples=500, n_inputs=6, n_outputs=3, seed=2)
network = rf.LinearNetwork.gaussian(n_inputs=6, width=4, n_outputs=3)
method = rf.StochasticGradientDescent(step_size=0.01, batch_size=8, label_noise=0.5)

run = rf.simulate(problem, network, method, steps=5_000, replicates=32, seed=0)

print("log det M at the start:", float(run.log_det[0, 0]))
for verdict in rf.laws.check(run, problem):
    print(verdict)
