"""Tables, sources, splits and labels: what every domain reads its data with (layer 7, below the domains)."""
