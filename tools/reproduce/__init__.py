"""The paper's claims, re-run at any scale: rows of experiments, what they reached, and whether that tells anything."""
