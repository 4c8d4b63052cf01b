//! Patches: JSON (RFC 6902), merge (RFC 7386) and strategic merge (rules J41 and J42).
