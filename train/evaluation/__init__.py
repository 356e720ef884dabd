"""What a student is worth: scores, calibration, class prior, and its release as a file."""
