"""Templates and tokenizers are foreign code: they run in a process of their own, which can be ended."""
