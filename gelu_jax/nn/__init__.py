"""The parts of a transformer, one file each: equation → config → module."""
