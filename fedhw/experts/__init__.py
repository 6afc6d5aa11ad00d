"""The three networks of a device: global expert, local expert, gate, and their mixture."""
