//! The database provider for self-managed PostgreSQL: SQL for looking, the agent for acting.
