"""Whether a student has learned the corpus instead of the age."""
