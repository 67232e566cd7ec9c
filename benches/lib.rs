//! Benchmarks of the libraries; see the files beside this one. `cargo bench` runs them.
