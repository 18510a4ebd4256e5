"""Who may be asked for bytes, and how: allow-lists, HTTP with its faults, and changed sources."""
