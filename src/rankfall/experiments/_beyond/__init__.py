"""The experiments of `rankfall reproduce beyond`; the only ones that import torch."""
