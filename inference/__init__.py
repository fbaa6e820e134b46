"""The engine: continuous batching on transformers model classes. Never imports Django."""

from __future__ import annotations

import os

# How often a thread of OpenMP looks for its next work before it sleeps. By the library's own default it looks
# for milliseconds, and compiled layers lack that core. Read once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
