"""Tests, bounds and resampling: pure functions of counts and arrays. They know no gate, no limit and no file.

Closed forms of paired proportions (:mod:`~edgekd.statistics.tango`, :mod:`~edgekd.statistics.score_ratio`), the
paired bootstrap (:mod:`~edgekd.statistics.bootstrap`), exact binomial bounds, Holm's correction, Student's t.
"""
