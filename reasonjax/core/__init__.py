"""Records and small functions that everything else may use."""
