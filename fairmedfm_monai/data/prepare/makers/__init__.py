"""Makers of files that a release holds in a format no dataset folder can: one module per format.

A maker is a function ``maker(inputs, target, **options)`` for `fairmedfm_monai.data.prepare.Made`.
"""
