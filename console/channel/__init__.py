"""Bounds of connections before anything is done for them: sizes, times, numbers and work, kept where bytes
come in. docs/decisions/0013 says why here.
"""
