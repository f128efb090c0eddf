"""What a target's machine can do, behind one small protocol."""
