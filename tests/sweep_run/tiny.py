"""A study of real cells that take milliseconds."""

import rankfall as rf

STUDY = """
name = "tiny"
[problem]
n_samples = 50
n_inputs = 2
n_outputs = 1
[network]
width = 4
[method]
name = "label-noise-descent"
step_size = 0.05
[run]
steps = 100
replicates = 4
save_points = 5
[axes]
label_noise = { log = [0.1, 10.0], count = 4 }
scale = { from = 0.5, to = 2.0, count = 4 }
"""


def write_study(path, *, noises=4, scales=4, steps=100, step_size=0.05):
    """Write it, with other lengths."""
    text = STUDY.replace("[0.1, 10.0], count = 4", f"[0.1, 10.0], count = {noises}")
    text = text.replace("to = 2.0, count = 4", f"to = 2.0, count = {scales}")
    text = text.replace("steps = 100", f"steps = {steps}").replace("step_size = 0.05", f"step_size = {step_size}")
    path.write_text(text)
    return path


def finished_in(store):
    """Cells that are done or failed in a store; 0 as long as it is being made."""
    try:
        status = rf.sweep.status(store)
    except rf.errors.NotARun:
        return 0
    return status.done + status.failed
