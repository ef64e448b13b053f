"""The compiled simulators: the only room that knows numba. Entered through `rankfall.simulate` alone."""
