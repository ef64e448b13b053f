"""Between `simulate` and the kernels: an ensemble under way, and how it is driven in rounds that can be interrupted."""
