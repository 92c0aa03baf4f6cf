//! Manifests, indexes and artifacts.
