"""Training: corpora, telephone channel, objective, evaluation, export of the trained student.

Uses ``streamer.audio`` alone of the server, so that training and calls process audio alike.
"""
