//! Layers that readers read differently: refused, or with --as-upstream taken as cfsctl takes them.
