"""What crosses the engine's door: frozen values, standard library only."""
