"""`fedhw fleet`: a coordinator and real devices on one machine."""
