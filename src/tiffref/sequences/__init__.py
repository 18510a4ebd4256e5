"""From many files to one array: names, coordinates, mosaics; `scanner` reads each file."""
