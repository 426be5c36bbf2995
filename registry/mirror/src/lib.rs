//! A local copy of the registry: list-then-watch, the routing table, and the last-good file.
