"""Whole loaders that `benchmarks.loading` compares, each a module with the same few functions.

`PACKAGES`: the distributions whose versions are reported. `write(pictures, folder)` makes the data
in the loader's own format, where it has one. `open_epochs(run, **options)` returns a function from
an epoch's number to its batches.
"""
