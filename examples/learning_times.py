"""Gradient flow from a small balanced start learns one mode after the other, at times that are known beforehand."""

import numpy as np

import rankfall as rf
from rankfall.laws import gradient_flow

targets = np.array([4.0, 2.0, 1.0])
problem = rf.Problem.from_statistics(np.eye(3), np.diag(targets))

# A start that shares its singular vectors with the problem: every mode is a logistic curve of its own.
strength = 1e-4
network = rf.LinearNetwork.from_weights(np.sqrt(strength) * np.eye(3), np.sqrt(strength) * np.eye(3))
run = rf.simulate(problem, network, rf.GradientFlow(), duration=10.0, save_points=2001)
predicted = gradient_flow.learning_times(targets, strength)
strengths = run.singular_values_W1[0].values ** 2
seen = run.time.values[(strengths >= targets / 2).argmax(axis=0)]
for target, law, measured in zip(targets, predicted, seen, strict=True):
    print(f"target {target:g}: half of it at t = {law:.4f} by the law, first seen at t = {measured:.3f}")

# Any balanced start on whitened inputs: modes mix on the way, the closed form still holds.
network = rf.LinearNetwork.balanced(n_inputs=3, width=5, n_outputs=3, scale=1e-4)
run = rf.simulate(problem, network, rf.GradientFlow(), duration=20.0, replicates=3, seed=0)
law = gradient_flow.predict(run)
print(
    "half-way times of three random starts (nan: det W1W2 starts negative and cannot change sign, so a mode is left):"
)
print(law.learning_time.values.round(3))
print(f"largest error of the loss against the closed form: {float(abs(run.loss - law.loss).max()):.1e}")
