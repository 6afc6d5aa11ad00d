"""The agent of one person: recognises, learns in the background, adopts releases."""
