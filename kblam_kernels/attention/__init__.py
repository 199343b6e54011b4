"""The public calls: attention to knowledge of either layout, once or in a loop, and in parts for engines."""
