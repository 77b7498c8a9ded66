"""Builders of the JSON configurations: one function per file of a bundle, each returning a plain dictionary."""
