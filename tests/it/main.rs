//! The one test binary: behaviour seen from outside.
