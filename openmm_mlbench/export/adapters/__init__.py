"""Models of other packages behind one interface; one file per kind of file."""
