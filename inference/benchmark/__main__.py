"""`python -m inference.benchmark FOLDER`."""

from __future__ import annotations

from inference.benchmark.run import main

main()
