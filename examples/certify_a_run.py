"""Run label-noise descent, keep only the save points, and certify every trajectory from the file alone."""

import tempfile
from pathlib import Path

import rankfall as rf

problem = rf.Problem.gaussian(n_samples=1000, n_inputs=5, n_outputs=2, seed=0)
network = rf.LinearNetwork.gaussian(n_inputs=5, width=10, n_outputs=2)
method = rf.LabelNoiseDescent(step_size=0.01, label_noise=2.0)

run = rf.simulate(problem, network, method, steps=20_000, replicates=64, seed=1, ledger="both")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "run.nc"
    rf.save_run(run, path)
    reopened = rf.open_run(path)
    print(f"{path.stat().st_size / 1e6:.1f} MB, {reopened.sizes['time']} of {int(reopened.step[-1]) + 1} states kept")
    for verdict in rf.laws.check(reopened):
        print(verdict)
