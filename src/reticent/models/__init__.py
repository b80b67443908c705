"""Networks: the reference architectures, where they can be cut, what their parts cost."""
