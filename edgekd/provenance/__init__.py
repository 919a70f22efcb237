"""Whose knowledge is in this student, and what did its makers say about taking it?

EdgeKD states facts and sources, and gives no legal advice. :mod:`~edgekd.provenance.declared` reads what was declared,
:mod:`~edgekd.provenance.terms` holds the table of terms, :mod:`~edgekd.provenance.rules` judges, purely.
"""
