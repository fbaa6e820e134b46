"""Model files from elsewhere, checked, converted, quantized: `python -m inference.convert`."""
