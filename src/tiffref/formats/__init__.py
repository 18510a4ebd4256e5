"""Groups of arrays to reference documents, and back."""
