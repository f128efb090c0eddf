"""What every room shares: errors, dtypes, the Philox generator, and the Executable as plain data. Imports numpy only."""
