"""The parts of the model card that card.py writes."""
