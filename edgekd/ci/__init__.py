"""What a CI job does around a gate: what may run there, where its baseline comes from, who is told.

:mod:`~edgekd.ci.plan` reads recipes and policies without running them, :mod:`~edgekd.ci.baseline` brings last release's
model from a path, a git ref or a release, :mod:`~edgekd.ci.comment` writes one sticky comment through
:mod:`~edgekd.ci.github` or :mod:`~edgekd.ci.gitlab`. The verdict itself is `edgekd gate`'s and `edgekd run`'s alone.
"""
