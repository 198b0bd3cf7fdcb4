"""Corpora by name -> list[Example]."""
