"""Models for the boards RDK X5 and RDK X3: the vendor's compiler, its formats, and the program that runs on a board."""
