"""The golden vectors of a bundle through every engine there is: vectors -> record -> rules -> report."""
