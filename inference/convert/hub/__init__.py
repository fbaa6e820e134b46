"""Model files of a hub's repository, at one commit: `python -m inference.convert.hub`."""
