"""Torch modules: the zoo, ``model.json`` folders, and running them as a runtime."""
