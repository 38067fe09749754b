"""Judges of histories. They read a History and nothing else, so a saved run can be judged again years later."""
