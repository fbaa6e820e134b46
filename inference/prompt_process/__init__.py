"""Chat templates and tokenizers are foreign code: each revision's run in a process that can be ended."""
