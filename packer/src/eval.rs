//! Benchmarks: STS pairs, Spearman and Pearson.
