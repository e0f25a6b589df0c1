"""What several rooms' tests share: tiny models, folders and stores, and the fixtures of commands."""
