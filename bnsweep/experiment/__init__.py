"""What to run: pure values. No torch, no ray, no store."""
