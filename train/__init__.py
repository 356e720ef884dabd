"""Training: corpora, telephone channel, objective, evaluation, export of the trained student.

Uses of ``streamer`` only its signal path (``codec``, ``vad``): what the server hears.
"""
