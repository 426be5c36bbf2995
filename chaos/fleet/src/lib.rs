//! A whole fleet on one machine, with faults, load, an oracle and the demo.
