//! The control plane's server: leadership, the HTTP API, samplers and the engine's host.
