"""The one door: everything that may leave a device passes here."""
