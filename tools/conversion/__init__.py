"""Verification of converted checkpoints with the libraries that read them."""
