"""What one server owes many visitors: the line for a device, limits, and the headers of its answers."""
