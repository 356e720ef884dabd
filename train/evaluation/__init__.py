"""What a trained model is worth: scores with intervals, calibration, class prior."""
