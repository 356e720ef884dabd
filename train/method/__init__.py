"""The paper's method: what a student learns from, and what is minimised."""
