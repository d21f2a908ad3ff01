"""Real programs as input: traces of what they allocate, images of where they keep their pointers."""
