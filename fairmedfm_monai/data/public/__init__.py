"""Public datasets, one per module: how its release is read, and its card.

A new dataset is one module here with a ``DATASET``; nothing else names it.
"""
