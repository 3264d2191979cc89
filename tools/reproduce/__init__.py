"""Re-runs the paper's ablations at any scale, and compares the results with the paper's claims."""
