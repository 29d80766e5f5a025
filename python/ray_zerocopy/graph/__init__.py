"""Object graph <-> skeleton: how a model or pipeline is taken apart, and put together again."""
