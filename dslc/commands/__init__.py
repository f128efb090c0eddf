"""The commands, one file each: functions of plain arguments that a Python program can call too."""
