param w[3] ~ zeros()
