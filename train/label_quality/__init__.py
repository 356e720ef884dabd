"""Labels that the voice contradicts, found without any student."""
