"""Many writers on one machine, and the report of what personalisation did for them."""
