"""Write groups as reference documents, and read them back."""
