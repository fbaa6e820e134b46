"""Where model files come from; each source ends with a checked folder."""
