//! The client before Azurite.
