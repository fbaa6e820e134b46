"""The values that callers and engines exchange: frozen dataclasses, standard library only."""
