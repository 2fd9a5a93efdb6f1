"""A model and probes in, everything that one check keeps of them out. It knows no baseline.

`instrument` makes the check, `measure` turns the rows of one layer into estimates.
"""
