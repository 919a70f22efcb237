"""The line itself: composes the rooms, stage by stage."""
