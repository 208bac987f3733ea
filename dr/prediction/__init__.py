"""From a finished run to grades of new photographs."""
