//! What is backed up comes back byte for byte; what is hostile or damaged is refused with a reason.
