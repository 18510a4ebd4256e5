"""From many files to one array: names, coordinates, mosaics; `tiff` reads each file."""
