"""One SQL file per question; `reference/` holds the paper's tables."""
