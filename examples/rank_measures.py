"""Ten measures of rank on five spectra: a table in Markdown, the one in docs/ranks.md."""

import numpy as np

import rankfall as rf

generator = np.random.default_rng(0)
noisy = np.outer(generator.normal(size=60), generator.normal(size=40)) + 0.01 * generator.normal(size=(60, 40))
spectra = {
    "diag(3, 1, 0.1, 0.01)": np.array([3.0, 1.0, 0.1, 0.01]),
    "identity 10 × 10": np.ones(10),
    "Gaussian 200 × 100": rf.ranks.singular_values(generator.normal(size=(200, 100))),
    "rank one + 1 % noise, 60 × 40": rf.ranks.singular_values(noisy),
    "rank one, 4096 × 4096": np.append(1.0, np.zeros(4095)),
}

print(f"| measure | {' | '.join(spectra)} |")
print("|---" * (1 + len(spectra)) + "|")
for name, measure in rf.ranks.MEASURES.items():
    values = [float(measure(singular_values)) for singular_values in spectra.values()]
    written = [f"{value:.0f}" if name in rf.ranks.COUNTS else f"{value:.4f}" for value in values]
    print(f"| {name} | {' | '.join(written).replace('-inf', '−∞').replace('-', '−')} |")
