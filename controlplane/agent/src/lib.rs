//! The agent beside a self-managed PostgreSQL: fences, promotes, follows, and stops it without proof.
