"""The commands of `loadgen`: their flags, what is refused at the door, what they print."""
