"""Re-parameterisable blocks as torch exports them, and what folding makes of them."""
