"""The engine: continuous batching on transformers model classes. Never imports Django."""
