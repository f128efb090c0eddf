model M:
	y = 3
