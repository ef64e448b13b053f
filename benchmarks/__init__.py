"""Side-by-side measurements of rankfall and its peers; run with `python -m benchmarks` (or `make benchmark`)."""
