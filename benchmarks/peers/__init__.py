"""The same work in other libraries, each as fast as its users can reasonably make it."""
