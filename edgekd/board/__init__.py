"""Boards behind a link: the host's side of a session, and the runner that is pushed and does everything over there."""
