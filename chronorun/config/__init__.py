"""The typed schema of what ``conf/`` holds, how it is composed and how mistakes are named."""
