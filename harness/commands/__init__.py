"""What each command does, one file each; imported only when the command is given."""
