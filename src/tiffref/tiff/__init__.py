"""From TIFFs to arrays: the only room that opens a TIFF."""
