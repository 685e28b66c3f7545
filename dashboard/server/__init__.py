"""What a server needs for many visitors: the line for a device, limits, and the headers of its answers."""
