"""Helpers of ``scripts/train_demo_models.py``: data, losses and tests of the two demo models."""
