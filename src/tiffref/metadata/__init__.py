"""What metadata of TIFFs means: dimensions, coordinates, systems, sizes, channels and times."""
