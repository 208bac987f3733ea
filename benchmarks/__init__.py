"""What README's figures come from: each benchmark one command."""
