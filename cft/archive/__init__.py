"""Films by the million -> a folder of Parquet files, on this machine or on a cluster by Ray."""
