"""Re-run the paper's ablations at any scale, and compare the results with the paper's claims."""
