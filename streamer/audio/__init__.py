"""Audio bytes in, speech out: decoding, sequence and loss, the speech gate."""
