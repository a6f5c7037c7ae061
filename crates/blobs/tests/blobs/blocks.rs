//! The rules of block blobs and append blobs.
